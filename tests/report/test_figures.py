"""What the figures show, read from the figure as drawn: `style.write` is eval_split, since nothing is returned."""

import itertools
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import NDArray

from scsuite.core.errors import OutputError, UsageError
from scsuite.report import figures
from scsuite.report.figures import galleries, style

NAN = float("nan")
ONE_CYCLE = [0.04 + 0.36 * (s / 9 if s < 10 else (39 - s) / 30) for s in range(40)]
SWEEP: dict[str, Any] = {
    "lrs": [0.001, 0.01, 0.1, 1.0, 10.0],
    "losses": [[2.3, 2.0, 1.0, 1.5, 1e9], [2.2, NAN, 1.1]],
    "accuracies": [[0.1, 0.2, 0.6, 0.4, 0.1], [0.1, NAN, 0.5]],
    "smooth_loss": [2.3, 2.0, 1.1, 1.5, float("inf")],
    "smooth_accuracy": [0.1, 0.2, 0.6, 0.4, 0.1],
    "suggestions": {"valley": 0.1, "$steep_1$": 0.1, "far": 1e4, "none": NAN},
    "lr_min": 0.04,
    "lr_max": 0.4,
    "log": True,
    "source": "training batches",
}
TRAINING: dict[str, Any] = {
    "epochs": [1, 2],
    "train_loss": [2.0, 1.0],
    "test_loss": [1.5, 1.2],
    "train_accuracy": [0.3, 0.6],
    "test_accuracy": [0.5, 0.6543],
    "steps": list(range(8)),
    "lrs": [0.1] * 8,
    "momenta": [0.9] * 8,
    "steps_per_epoch": 4,
    "held_out": "val",
}
CALIBRATION: dict[str, Any] = {
    "confidence_B": [NAN, 0.4, 0.95],
    "accuracy_B": [NAN, 0.3, 0.99],
    "count_B": [0, 12, 3456],
    "ece": 0.0231,
}


def _images(num_images: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)


def _mistakes(num_images: int, name: str = "cat") -> dict[str, Any]:
    return {
        "actual": [name] * num_images,
        "predicted": ["dog"] * num_images,
        "confidence": [0.934] * num_images,
        "total": num_images,
    }


def _draw_all(folder: Path, suffix: str) -> dict[str, Callable[[], None]]:
    images = _images(3)
    maps = {"predicted": np.ones((3, 32, 32), np.float32)}
    captions = [{"image": "#1", "predicted": "predicted dog 0.62"}] * 3
    path = {name: folder / f"{name}{suffix}" for name in figures.__all__}
    return {
        "schedule": lambda: figures.schedule(
            ONE_CYCLE, path["schedule"], lr_min=0.04, lr_max=0.4, steps_per_epoch=2, title="t"
        ),
        "lr_range": lambda: figures.lr_range(path["lr_range"], **SWEEP),
        "training": lambda: figures.training(path["training"], **TRAINING),
        "image_grid": lambda: figures.image_grid(images, path["image_grid"], titles=["a"] * 3, title="t"),
        "confusion": lambda: figures.confusion(
            path["confusion"], matrix_KK=np.eye(3, dtype=np.int64), class_names=["a", "b", "c"]
        ),
        "classes": lambda: figures.classes(path["classes"], **_classes(5)),
        "reliability": lambda: figures.reliability(path["reliability"], **CALIBRATION),
        "misclassified": lambda: figures.misclassified(images, path["misclassified"], **_mistakes(3)),
        "gradcam": lambda: figures.gradcam(images, path["gradcam"], maps=maps, captions=captions, title="t"),
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that were handed to `style.write`, each laid out as for its file, which is not written."""
    seen: list[Figure] = []

    def watch(figure: Figure, path: Path) -> None:
        figure.draw_without_rendering()
        seen.append(figure)

    monkeypatch.setattr(style, "write", watch)
    yield seen


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def _tiles(figure: Figure) -> list[AxesImage]:
    return figure.axes[0].get_images()


@pytest.mark.parametrize("name", figures.__all__)
def test_each_figure_writes_a_png_of_readable_size_without_a_warning(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _draw_all(tmp_path, ".png")[name]()
    (file,) = tmp_path.iterdir()
    head = file.read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert 700 <= width <= 1500 and 200 <= height <= 1500


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")])
def test_the_suffix_decides_the_format_and_the_same_figure_is_the_same_file(
    suffix: str, start: bytes, tmp_path: Path
) -> None:
    written = []
    for _ in range(2):
        _draw_all(tmp_path, suffix)["reliability"]()
        written.append((tmp_path / f"reliability{suffix}").read_bytes())
    assert written[0].startswith(start)
    assert written[0] == written[1]


def test_another_suffix_is_a_usage_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        _draw_all(tmp_path, ".docx")["training"]()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        _draw_all(tmp_path / "file", ".png")["training"]()


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        figures.image_grid(_images(2), tmp_path / "a.png", titles=["one"], title="t")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_left_as_it_was_and_a_users_own_settings_change_nothing(tmp_path: Path) -> None:
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 50, "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        _draw_all(tmp_path, ".png")["training"]()
        assert dict(matplotlib.rcParams) == before
    width, _ = struct.unpack(">II", (tmp_path / "training.png").read_bytes()[16:24])
    assert width == round(style.WIDTH * style.DPI)


def test_letters_that_no_font_has_are_not_warned_of(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.image_grid(_images(1), tmp_path / "a.png", titles=["猫 \ue000"], title="猫")


def test_pyplot_is_never_imported() -> None:
    source = "".join(file.read_text() for file in Path(figures.__file__).parent.glob("*.py"))
    assert "import pyplot" not in source and "matplotlib.pyplot" not in source


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("schedule", {"step", "learning rate"}),
        ("lr_range", {"accuracy (%)", "learning rate"}),
        ("training", {"loss", "accuracy (%)", "learning rate", "momentum", "epoch"}),
        ("confusion", {"actual", "predicted"}),
        ("reliability", {"confidence", "accuracy", "images"}),
    ],
)
def test_axes_say_what_they_show(name: str, labels: set[str], drawn: list[Figure], tmp_path: Path) -> None:
    _draw_all(tmp_path, ".png")[name]()
    shown = {label for axes in drawn[0].axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert labels <= shown


def _schedule(drawn: list[Figure], lrs: list[float], **facts: Any) -> Axes:
    given = {"lr_min": 0.04, "lr_max": 0.4, "steps_per_epoch": 2, "title": "$t$", **facts}
    figures.schedule(lrs, Path("x.png"), **given)
    return drawn[0].axes[0]


def test_the_schedule_draws_every_step_between_its_named_limits(drawn: list[Figure]) -> None:
    axes = _schedule(drawn, ONE_CYCLE)
    lines = {tuple(np.ravel(line.get_ydata())) for line in axes.lines}
    assert {tuple(ONE_CYCLE), (0.4, 0.4), (0.04, 0.04)} == lines
    assert {"LRMAX = 0.4", "LRMIN = 0.04", "$t$"} <= set(_texts(drawn[0]))


def test_epochs_on_top_end_with_their_last_step(drawn: list[Figure]) -> None:
    axes = _schedule(drawn, ONE_CYCLE)
    (top,) = axes.child_axes
    assert top.get_xlabel() == "epoch"
    axes.set_xlim(-1, 39)  # from before the first to the last of 40 steps, 2 an epoch
    drawn[0].draw_without_rendering()
    assert top.get_xlim() == pytest.approx((0, 20))


def test_what_was_done_is_drawn_over_what_was_planned(drawn: list[Figure]) -> None:
    axes = _schedule(drawn, ONE_CYCLE[:7], planned=ONE_CYCLE)
    named = {str(line.get_label()): line for line in axes.lines}
    assert len(np.ravel(named["planned"].get_ydata())) == 40
    assert len(np.ravel(named["really done"].get_ydata())) == 7
    assert axes.lines.index(named["planned"]) < axes.lines.index(named["really done"])


@pytest.mark.parametrize("lr_min", [0.001, 0.1, 0.22, 0.239, 0.241, 0.39])
def test_the_names_beside_the_schedule_do_not_cover_each_other(lr_min: float, drawn: list[Figure]) -> None:
    axes = _schedule(drawn, [lr_min, 0.4, lr_min], planned=[lr_min, 0.4, lr_min], lr_min=lr_min)
    legend = axes.get_legend()
    assert legend is not None
    boxes = [legend.get_window_extent(), *(text.get_window_extent() for text in axes.texts)]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of the ticks that matplotlib tries beyond the largest
@pytest.mark.parametrize("lr_max", [1e-8, 0.4, 1e4, 1.7e308])
def test_rates_of_any_size_are_written_out(lr_max: float, drawn: list[Figure]) -> None:
    axes = _schedule(drawn, [lr_max / 10, lr_max], lr_min=lr_max / 10, lr_max=lr_max)
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert "0" in {label.get_text() for label in axes.get_yticklabels()}


def test_a_title_too_long_for_the_figure_gives_way_in_its_middle(drawn: list[Figure]) -> None:
    _schedule(drawn, ONE_CYCLE, title=f"40 of 40 steps: {'W' * 200}-end")
    (title,) = [text for text in _texts(drawn[0]) if text.startswith("40 of 40 steps: ")]
    assert title.endswith("-end")
    suptitle = next(text for text in drawn[0].texts if text.get_text() == title)
    assert suptitle.get_window_extent().x1 <= drawn[0].bbox.x1


def test_limits_that_lie_close_are_still_told_apart(drawn: list[Figure]) -> None:
    figures.schedule([0.39, 0.4], Path("x.png"), lr_min=0.39, lr_max=0.4, steps_per_epoch=1, title="")
    low, high = drawn[0].axes[0].get_ylim()
    assert (0.4 - 0.39) / (high - low) > 0.5


def test_a_diverged_loss_does_not_flatten_the_descent(drawn: list[Figure]) -> None:
    figures.lr_range(Path("x.png"), **SWEEP)
    loss = drawn[0].axes[0]
    low, high = loss.get_ylim()
    assert low < 1.0 and 2.3 < high < 4.0
    assert "rises to 1e+09" in loss.get_ylabel()


def test_each_rule_has_a_row_of_its_own_with_its_rate(drawn: list[Figure]) -> None:
    figures.lr_range(Path("x.png"), **SWEEP)
    strip = drawn[0].axes[2]
    # "none" found nothing and has no row; "far" lies outside and points there.
    assert [label.get_text() for label in strip.get_yticklabels()] == ["valley", "$steep_1$", "far"]
    marks = [(line.get_marker(), *np.ravel(line.get_xydata())) for line in strip.lines if line.get_marker() != "None"]
    assert marks == [("D", 0.1, 0.0), ("D", 0.1, 1.0), (">", 10.0, 2.0)]
    assert {"0.1", "1e+04", "LRMIN = 0.04", "LRMAX = 0.4"} <= set(_texts(drawn[0]))


def test_several_repeats_have_a_band_and_one_has_none(drawn: list[Figure]) -> None:
    def bands() -> int:
        return sum(type(c).__name__ == "FillBetweenPolyCollection" for c in drawn[-1].axes[0].collections)

    figures.lr_range(Path("x.png"), **SWEEP)
    several = bands()
    figures.lr_range(Path("x.png"), **{**SWEEP, "losses": SWEEP["losses"][:1], "accuracies": SWEEP["accuracies"][:1]})
    assert (several, bands()) == (1, 0)


@pytest.mark.parametrize("log", [True, False])
def test_a_range_test_without_a_single_finite_loss_is_drawn(log: bool, drawn: list[Figure]) -> None:
    empty: dict[str, Any] = {
        "losses": [[NAN] * 5, []],
        "accuracies": [[]],
        "smooth_loss": [NAN] * 5,
        "smooth_accuracy": [],
    }
    figures.lr_range(Path("x.png"), **{**SWEEP, **empty, "suggestions": {}, "log": log})
    assert len(drawn[0].axes) == 2


def test_training_labels_the_last_test_accuracy_in_percent(drawn: list[Figure]) -> None:
    figures.training(Path("x.png"), **TRAINING)
    assert "val\n65.43 %" in _texts(drawn[0])
    legend = drawn[0].axes[1].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["train", "val"]


def test_a_single_epoch_without_a_test_is_drawn_as_points(drawn: list[Figure]) -> None:
    one = {"epochs": [1], "train_loss": [2.0], "test_loss": [NAN], "train_accuracy": [0.3], "test_accuracy": [NAN]}
    figures.training(Path("x.png"), **{**TRAINING, **one})
    (line,) = drawn[0].axes[0].lines
    assert (line.get_label(), line.get_marker()) == ("train", "o")


@pytest.mark.parametrize("num_classes", [2, 10, 15])
def test_counts_in_the_cells_equal_the_matrix_and_shares_those_of_its_rows(
    num_classes: int, drawn: list[Figure]
) -> None:
    matrix_KK = np.random.default_rng(1).integers(0, 5000, (num_classes, num_classes))
    matrix_KK[0, 1] = 0  # a cell without images says 0 alone
    figures.confusion(Path("x.png"), matrix_KK=matrix_KK, class_names=[f"c{k}" for k in range(num_classes)])
    cells: dict[tuple[int, int], list[str]] = {}
    for text in drawn[0].axes[0].texts:
        cells.setdefault((round(text.get_position()[1]), round(text.get_position()[0])), []).append(text.get_text())
    confusion_normalized_KK = 100 * matrix_KK / matrix_KK.sum(axis=1, keepdims=True)
    assert cells == {
        at: [f"{count:,}"] + [f"{confusion_normalized_KK[at]:.1f} %"] * bool(count and num_classes <= 12)
        for at, count in np.ndenumerate(matrix_KK)
    }


def _classes(num_classes: int, name: str = "c") -> dict[str, Any]:
    accuracy = {f"{name}{k}": (k * 7 % num_classes + 1) / (num_classes + 1) for k in range(num_classes)}
    interval = {name: (share - 0.004, share + 0.003) for name, share in accuracy.items()}
    return {"accuracy": accuracy, "interval": interval, "mean": 0.5}


def test_the_accuracies_of_the_classes_stand_worst_first_with_their_intervals(drawn: list[Figure]) -> None:
    facts: dict[str, Any] = {
        "accuracy": {"cat": 0.9, "dog": 0.4},
        "interval": {"cat": (0.8, 0.95), "dog": (0.3, 0.5)},
        "mean": 0.65,
    }
    figures.classes(Path("x.png"), **facts)
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.lines[:2]] == [[[0.4, 0]], [[0.9, 1]]]
    segments = [np.asarray(path.vertices)[:, 0].tolist() for bars in axes.collections for path in bars.get_paths()]
    assert segments == [[0.3, 0.5], [0.8, 0.95]]
    assert {"40.0 %", "90.0 %", "mean of classes 65.0 %"} <= set(_texts(drawn[0]))


@pytest.mark.parametrize("num_classes", [1, 10, 100, 101])
def test_the_worst_hundred_classes_have_names_that_do_not_overlap(num_classes: int, drawn: list[Figure]) -> None:
    figures.classes(Path("x.png"), **_classes(num_classes, "an extraordinarily long class name "))
    labels = drawn[0].axes[0].get_yticklabels()
    assert len(labels) == min(num_classes, 100)
    assert not _overlap(labels, 1)
    assert ("Accuracy of the classes, the 100 worst of 101" in _texts(drawn[0])) == (num_classes > 100)


def test_colours_are_shares_of_the_actual_class_and_a_class_without_images_has_none(drawn: list[Figure]) -> None:
    figures.confusion(Path("x.png"), matrix_KK=np.array([[3, 1], [0, 0]]), class_names=["a", "b"])
    shares: NDArray[np.float64] = np.ma.filled(np.ma.asarray(drawn[0].axes[0].get_images()[0].get_array()), NAN)
    np.testing.assert_array_equal(shares, [[0.75, 0.25], [NAN, NAN]])


def _overlap(labels: list[Text], axis: int) -> bool:
    spans = sorted((box.min[axis], box.max[axis]) for box in (label.get_window_extent() for label in labels))
    return any(first[1] > second[0] + 1 for first, second in itertools.pairwise(spans))


@pytest.mark.parametrize("num_classes", [2, 10, 100, 300])
def test_class_names_do_not_overlap_and_many_classes_have_no_counts(num_classes: int, drawn: list[Figure]) -> None:
    names = [f"an extraordinarily long class name {k}" for k in range(num_classes)]
    figures.confusion(Path("x.png"), matrix_KK=np.eye(num_classes, dtype=np.int64), class_names=names)
    axes = drawn[0].axes[0]
    assert not _overlap(axes.get_yticklabels(), 1)
    assert len(axes.texts) == (num_classes**2 + num_classes if num_classes <= 20 else 0)  # a share where a count is
    assert all(label.get_text().endswith("0") for label in axes.get_yticklabels()[:1])
    assert max(drawn[0].get_size_inches()) < 17


def test_reliability_leaves_empty_bins_out_and_counts_the_others(drawn: list[Figure]) -> None:
    figures.reliability(Path("x.png"), **CALIBRATION)
    curve, bars = drawn[0].axes
    np.testing.assert_array_equal(curve.lines[1].get_xydata(), [[0.4, 0.3], [0.95, 0.99]])
    assert [text.get_text() for text in bars.texts] == ["12", "3,456"]
    # Three bins, each a third wide: the second and the third are filled.
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]  # type: ignore[attr-defined]
    assert centres == pytest.approx([1 / 2, 5 / 6])
    assert "Expected calibration error 2.31 %" in _texts(drawn[0])


def test_names_from_outside_are_neither_formulas_nor_controls(drawn: list[Figure]) -> None:
    hostile = "$\\frac{1}{2}$\n"
    figures.confusion(Path("x.png"), matrix_KK=np.eye(2, dtype=np.int64), class_names=[hostile, "b"])
    figures.image_grid(_images(1), Path("x.png"), titles=[hostile], title=hostile)
    for figure in drawn:
        named = [t for t in figure.findobj(Text) if isinstance(t, Text) and "frac" in t.get_text()]
        assert len(named) >= 2
        assert all(not text.get_parse_math() and "\\n" in text.get_text() for text in named)


@pytest.mark.parametrize(("num_images", "columns"), [(1, 1), (7, 5), (25, 5), (26, 10)])
def test_mistakes_stand_five_in_a_row_ten_beyond_twenty_five(
    num_images: int, columns: int, drawn: list[Figure]
) -> None:
    figures.misclassified(_images(num_images), Path("x.png"), **_mistakes(num_images))
    tiles = _tiles(drawn[0])
    assert len(tiles) == num_images
    assert len({tile.get_extent()[0] for tile in tiles}) == columns


def test_a_mistake_says_what_it_is_what_was_said_and_how_surely(drawn: list[Figure]) -> None:
    figures.misclassified(_images(1), Path("x.png"), **{**_mistakes(1), "total": 683})
    assert _texts(drawn[0]) == ["683 misclassified images, the most confident 1", "true cat", "said dog 0.93"]


def test_a_name_too_long_for_its_tile_gives_way_and_its_probability_does_not(drawn: list[Figure]) -> None:
    mistakes = {**_mistakes(25), "predicted": ["W" * 60] * 25}
    figures.misclassified(_images(25), Path("x.png"), **mistakes)
    lines = drawn[0].axes[0].texts[1:]  # after the title
    left, right, *_ = _tiles(drawn[0])[0].get_extent()
    assert sum(text.get_text().endswith("W 0.93") for text in lines) == 25
    assert max(text.get_window_extent().width for text in lines) <= right - left + 1


@pytest.mark.parametrize("num_images", [25, 26])
def test_names_that_differ_in_their_middle_are_told_apart_on_two_lines(num_images: int, drawn: list[Figure]) -> None:
    mistakes = {**_mistakes(num_images, "colour 10 of the wheel"), "predicted": ["colour 11 of the wheel"] * num_images}
    figures.misclassified(_images(num_images), Path("x.png"), **mistakes)
    lines = drawn[0].axes[0].texts[1:5]
    assert " ".join(text.get_text() for text in lines) == "true colour 10 of the wheel said colour 11 of the wheel 0.93"
    assert not _overlap(lines, 1)
    picture = _tiles(drawn[0])[0].get_window_extent()
    assert min(text.get_window_extent().y0 for text in lines) > picture.y1


def test_no_mistakes_make_a_polite_picture(drawn: list[Figure]) -> None:
    figures.misclassified(_images(0), Path("x.png"), **_mistakes(0))
    assert _texts(drawn[0]) == ["No misclassified images."]


def test_images_are_enlarged_by_whole_pixels_without_blur(tmp_path: Path) -> None:
    from PIL import Image

    image = _images(1)
    figures.image_grid(image, tmp_path / "a.png", titles=["cat"], title="t")
    page = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    factor = 7
    wanted = image[0].repeat(factor, axis=0).repeat(factor, axis=1)
    tops = [y for y in range(len(page) - len(wanted) + 1) if (page[y, 30:254] == wanted[0]).all()]
    assert tops
    np.testing.assert_array_equal(page[tops[0] : tops[0] + 224, 30:254], wanted)


def _cams(drawn: list[Figure], maps: dict[str, Any], images: Any = None) -> list[NDArray[np.uint8]]:
    """The tiles of one figure: picture, then one for each map, and the difference of predicted and actual."""
    images = np.full((1, 32, 32, 3), 100, np.uint8) if images is None else images
    captions = [{name: f"{name} 0.62" for name in ("image", *maps)}] * len(images)
    figures.gradcam(images, Path("x.png"), maps=maps, captions=captions, title="t")
    return [np.asarray(tile.get_array()) for tile in _tiles(drawn[-1])][:-1]  # the last is the bar of colours


def test_both_maps_of_an_image_share_one_scale(drawn: list[Figure]) -> None:
    strong = np.linspace(0, 4, 1024, dtype=np.float32).reshape(1, 32, 32)
    _, predicted, actual, _ = _cams(drawn, {"predicted": strong, "actual": strong / 4})
    alone = _cams(drawn, {"actual": strong / 4})[1]
    # Equal evidence has equal colours on both maps: the actual's strongest is a quarter of the predicted's.
    at_quarter = int(np.argmin(np.abs(strong.ravel() - 1.0)))
    np.testing.assert_allclose(actual.reshape(-1, 3)[-1].astype(int), predicted.reshape(-1, 3)[at_quarter], atol=2)
    np.testing.assert_array_equal(alone, predicted)


def test_a_map_without_positive_evidence_is_the_grey_picture_and_says_so(drawn: list[Figure]) -> None:
    empty, full = np.zeros((1, 32, 32), np.float32), np.ones((1, 32, 32), np.float32)
    _, predicted, actual, _ = _cams(drawn, {"predicted": full, "actual": empty})
    assert _texts(drawn[0]).count("no\npositive\nevidence") == 1
    assert (actual == actual[..., :1]).all()
    assert not (predicted == predicted[..., :1]).all()


def test_all_maps_empty_or_not_numbers_are_still_a_figure(drawn: list[Figure]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _cams(drawn, {"predicted": np.zeros((1, 32, 32), np.float32), "actual": np.full((1, 32, 32), NAN, np.float32)})
    assert _texts(drawn[0]).count("no\npositive\nevidence") == 2
    assert _texts(drawn[0]).count("no\ndifference") == 1


def test_the_difference_is_orange_for_predicted_blue_for_actual_and_grey_where_they_agree(drawn: list[Figure]) -> None:
    predicted, actual = np.zeros((2, 1, 32, 32), np.float32)
    predicted[0, :16], actual[0, 8:24] = 1, 1  # rows 8 to 15 speak for both, rows 24 and on for none
    tile = _cams(drawn, {"predicted": predicted, "actual": actual})[-1].astype(int)
    assert "difference" in _texts(drawn[0])
    red, blue = tile[..., 0], tile[..., 2]
    assert (red[:8] > blue[:8] + 100).all()
    assert (blue[16:24] > red[16:24] + 100).all()
    assert (tile[8:16] == tile[24:]).all() and (red[24:] == blue[24:]).all()


def test_one_class_has_no_difference_beside_it(drawn: list[Figure]) -> None:
    assert len(_cams(drawn, {"predicted": np.ones((1, 32, 32), np.float32)})) == 2
    assert "difference" not in _texts(drawn[0])


def test_notes_stand_whole_under_the_figure_and_within_its_width(drawn: list[Figure]) -> None:
    note = "predicted: " + ", ".join(f"score {i} 12 % (random 13 %)" for i in range(12))
    maps = {"predicted": np.ones((1, 32, 32), np.float32)}
    figures.gradcam(_images(1), Path("x.png"), maps=maps, captions=[{}], title="t", notes=[note, "actual: none"])
    width, height = drawn[0].get_size_inches() * style.DPI
    lines = [text for text in drawn[0].axes[0].texts if "score" in text.get_text() or "actual" in text.get_text()]
    assert " ".join(line.get_text() for line in lines) == f"{note} actual: none"
    boxes = [line.get_window_extent() for line in lines]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 for box in boxes)
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
    assert min(tile.get_extent()[2] for tile in _tiles(drawn[0])) <= height - boxes[0].y1


def test_an_overlay_of_its_own_is_enlarged_without_blur(tmp_path: Path) -> None:
    from PIL import Image

    image, heat = _images(1)[0], np.zeros((32, 32), np.float32)
    heat[:16] = 0.5
    galleries.single_overlay(image, tmp_path / "a.png", heat, 1.0)
    page = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert page.shape == (512, 512, 3)
    small = page[::16, ::16]
    assert (page == small.repeat(16, axis=0).repeat(16, axis=1)).all()
    assert (small[16:] == small[16:, :, :1]).all() and not (small[:16] == small[:16, :, :1]).all()
    galleries.single_overlay(image, tmp_path / "b.png", np.zeros_like(heat), 0.0)
    assert (np.asarray(Image.open(tmp_path / "b.png").convert("RGB"))[256:] == page[256:]).all()


def test_pictures_of_different_sizes_keep_their_proportions(drawn: list[Figure]) -> None:
    sizes = [(300, 600), (90, 30)]
    pictures = [np.full((*size, 3), 7, np.uint8) for size in sizes]
    _cams(drawn, {"dog": [np.ones(size, np.float32) for size in sizes]}, pictures)
    extents = [tile.get_extent() for tile in _tiles(drawn[0])]
    shapes = [abs(bottom - top) / (right - left) for left, right, bottom, top in extents[:4]]
    assert shapes == pytest.approx([0.5, 0.5, 3.0, 3.0], rel=0.02)


def test_twenty_five_images_with_two_maps_have_captions_that_do_not_run_into_each_other(drawn: list[Figure]) -> None:
    maps = {"predicted": np.ones((25, 32, 32), np.float32), "actual": np.ones((25, 32, 32), np.float32)}
    captions = [{"image": "#1", "predicted": "predicted automobile 0.62", "actual": "actual airplane 0.31"}] * 25
    figures.gradcam(_images(25), Path("x.png"), maps=maps, captions=captions, title="t")
    tiles = _tiles(drawn[0])[:-1]
    width = tiles[0].get_extent()[1] - tiles[0].get_extent()[0]
    captions_drawn = [t for t in drawn[0].axes[0].texts if not t.get_text().startswith("each image")]  # that of the bar
    words = [t for t in captions_drawn if any(w in t.get_text() for w in ("predicted", "actual", "0."))]
    assert len(tiles) == 100 and width >= 160
    assert max(text.get_window_extent().width for text in words) <= width


def test_stronger_evidence_is_brighter_and_none_leaves_the_picture() -> None:
    grey = np.full((1, 5, 3), 60, np.uint8)
    mixed = galleries.overlay(grey, np.array([[0.0, 0.25, 0.5, 0.75, 1.0]], np.float32))
    luma = mixed[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_array_equal(mixed[0, 0], [60, 60, 60])
    assert (np.diff(luma[1:]) > 0).all()
