"""Numbers stay short, and names from outside stay on one line."""

import pytest

from scsuite.core.errors import escape
from scsuite.report import formatting


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.93125, "93.12 %"), (1.0, "100.00 %"), (0.0, "0.00 %"), (None, "-"), (float("nan"), "-")],
)
def test_percent_has_two_decimals_and_a_dash_for_a_missing_value(fraction: float | None, text: str) -> None:
    assert formatting.percent(fraction) == text


def test_numbers_stay_short_even_when_a_loss_has_diverged() -> None:
    values = (1.5, 1e30, float("inf"), float("nan"), None)
    assert [formatting.number(value) for value in values] == ["1.5000", "1.00e+30", "inf", "-", "-"]


def test_learning_rates_have_three_digits() -> None:
    assert [formatting.learning_rate(lr) for lr in (0.4, 0.04163, 1e-5, None)] == ["0.4", "0.0416", "1e-05", "-"]


def test_rules_of_the_range_test_have_readable_labels() -> None:
    names = ("steepest", "minimum_over_10", "accuracy_plateau", "edge_of_divergence")
    labels = ["steepest", "minimum / 10", "accuracy plateau", "edge of divergence"]
    assert [formatting.rule_label(name) for name in names] == labels


def test_control_characters_become_visible_escapes() -> None:
    assert escape("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert escape("Straße 猫") == "Straße 猫"


def test_a_name_that_python_read_from_undecodable_bytes_can_be_written() -> None:
    name = escape(b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert name.encode("utf-8") == rb"caf\udce9"


@pytest.mark.parametrize("max_width", [4, 7, 11])
def test_truncation_keeps_both_ends_within_the_width(max_width: int) -> None:
    truncated = formatting.truncate_middle("golden retriever 12", max_width)
    assert formatting.display_width(truncated) == max_width
    assert truncated[0] == "g" and truncated[-1] == "2" and "…" in truncated


def test_truncation_changes_nothing_that_fits() -> None:
    assert formatting.truncate_middle("cat", 3) == "cat"


def test_wide_characters_count_twice_and_combining_marks_not_at_all() -> None:
    assert formatting.display_width("猫a") == 3
    assert formatting.display_width("e\u0301") == 1


def test_wrapping_breaks_where_the_longer_line_is_shortest() -> None:
    assert formatting.wrap_two_lines("predicted automobile 0.62", 20) == ["predicted", "automobile 0.62"]
    assert formatting.wrap_two_lines("predicted dog 0.62", 20) == ["predicted dog 0.62"]
    assert formatting.wrap_two_lines("unbreakablelongname", 8) == ["unbre…me"]


def test_faithfulness_notes_have_a_line_per_class() -> None:
    scores = {
        "deletion": 0.123, "deletion_random": 0.158, "insertion": 0.655, "insertion_random": 0.147, "pointing": 0.833,
        "pointing_random": 0.292, "pointing_centre": 0.305, "energy_on_object": 0.515, "energy_on_object_random": 0.112,
    }  # fmt: skip
    without_masks = {**scores, "pointing": None}
    assert formatting.faithfulness_notes({"predicted": scores, "actual": without_masks}) == [
        "predicted: deletion 12 % (random 16 %, lower is better), insertion 66 % (random 15 %, higher is better), "
        "pointing game 83 % (random 29 %, centre 30 %), energy on object 52 % (random 11 %)",
        "actual: deletion 12 % (random 16 %, lower is better), insertion 66 % (random 15 %, higher is better)",
    ]


def test_a_footer_names_run_data_seed_and_accuracy_as_far_as_there_are() -> None:
    run = "runs/20260101T000000Z-train-shapes"
    assert formatting.footer(run, data="shapes", seed=0, accuracy=0.941) == (
        "20260101T000000Z-train-shapes · shapes · seed 0 · test accuracy 94.10 %"
    )
    assert formatting.footer(run, data="a" * 99, seed=3, repeats=3).endswith("a · seeds 3 to 5")
    assert formatting.footer(run) == "20260101T000000Z-train-shapes"
    assert len(formatting.footer("r" * 200, data="d" * 200)) <= 103


@pytest.mark.parametrize(
    ("max_width", "text"), [(40, "test/cat/IMG_1.png"), (16, "…/cat/IMG_1.png"), (12, "…/IMG_1.png"), (6, "IMG…ng")]
)
def test_a_path_keeps_its_last_part(max_width: int, text: str) -> None:
    assert formatting.truncate_path("test/cat/IMG_1.png", max_width) == text


def test_maps_have_the_names_of_their_papers_and_say_which_images() -> None:
    images = formatting.cam_selection("misclassified", 25, 134)
    assert formatting.cam_title("hirescam", "layer2", images) == (
        "Grad-CAM (HiResCAM, layer2): 25 misclassified images of 134"
    )
    assert formatting.cam_title("gradcam", "layer1,layer2", "x") == "Grad-CAM (layer1 + layer2): x"
    assert formatting.cam_selection("misclassified", 1, 1) == "1 misclassified image"
    assert formatting.cam_selection("confident", 5, 1000) == "the 5 most confident images of 1,000"
    assert formatting.cam_selection("3,14", 2, 1000) == "2 chosen images of 1,000"


def test_class_counts_stay_on_a_line_for_many_classes() -> None:
    assert formatting.class_counts(["cat", "dog"], [1000, 1000], [2, 2]) == (
        "1,000 training and 2 test images in each of cat, dog"
    )
    assert (
        formatting.class_counts(["cat", "dog"], [3, 1200], [1, 0]) == "training + test images: cat 3 + 1, dog 1,200 + 0"
    )
    names = [f"class {i}" for i in range(1000)]
    text = formatting.class_counts(names, [5 + i for i in range(1000)], [1] * 1000)
    assert text.endswith("class 11, ...; training + test images: from 5 + 1 (class 0) to 1,004 + 1 (class 999)")
    assert len(formatting.class_counts(["x" * 300] * 12, [1] * 12, [1] * 12)) < 450
