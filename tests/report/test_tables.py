"""Tables show every value at 40 columns, print brackets in names as they are, and load no matplotlib."""

import io
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from scsuite.core.lr_range.range_test import RangeTest
from scsuite.core.model.summary import LayerSummary
from scsuite.core.runs.results import EpochResult, EvaluateResult, StepResult
from scsuite.core.training.state import EpochTotals
from scsuite.report import tables

HOSTILE = "[b]cat[/]"
LAYER = LayerSummary("prep", "Conv3x3 > BN > ReLU", (64, 32, 32), 1856)
CLASS = {"name": HOSTILE, "precision": 0.9312, "recall": 1.0, "f1": 0.5, "support": 12345}
PAIR = {"actual": "cat", "predicted": "dog", "count": 1234, "fraction": 0.456}
MACRO = {"precision": 0.125, "recall": 0.25, "f1": 0.375}
IMAGE = {
    "index": 9123, "file": "cat/1.png", "actual": HOSTILE, "predicted": "dog", "p_actual": 0.31, "p_predicted": 0.62,
}  # fmt: skip
FAITHFULNESS = {
    "num_images": 25, "num_no_evidence": 3, "num_scored": 25, "deletion": 0.123, "deletion_random": 0.158,
    "insertion": 0.655, "insertion_random": 0.147, "pointing": 0.833, "pointing_random": 0.292,
    "pointing_centre": 0.305, "energy_on_object": 0.515, "energy_on_object_random": 0.112,
}  # fmt: skip
EPOCH = EpochResult(
    epoch=5, step=490, lr=0.4, momentum=0.95, train_loss=1.5, train_accuracy=0.4567, test_loss=1.25,
    test_accuracy=0.9312, images_per_second=12345.6, seconds=4.05,
)  # fmt: skip


def _range_test(**changes: Any) -> RangeTest:
    test: dict[str, Any] = {
        "sweeps": (), "suggestions": {HOSTILE: 0.123456, "edge_of_divergence": 1.23456}, "lr_min": 0.04, "lr_max": 0.4,
        "allowed_lr_max": (0.01, 1.0), "lr_max_source": "scaling rule", "reason": "it bends",
        "warnings": ("few [b]steps",), "loss_source": "", "curve": "exp", "conditions": {},
    }  # fmt: skip
    return RangeTest(**{**test, **changes})


def _evaluation(**changes: Any) -> EvaluateResult:
    result: dict[str, Any] = {
        "accuracy": 0.9312, "accuracy_ci95": (0.9261, 0.936), "top5_accuracy": 0.991, "loss": 0.25, "ece": 0.02,
        "macro": MACRO, "num_images": 10000, "per_class": [], "confusion_matrix": [], "confusion_normalized": [],
        "most_confused": [], "num_misclassified": 0, "misclassified": [], "tta": None, "data": HOSTILE,
        "balanced_accuracy": 0.5, "evaluated": "test", "checkpoint": "",
    }  # fmt: skip
    return EvaluateResult(**{**result, **changes})


def _print(renderable: RenderableType, width: int = 40, **kwargs: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **kwargs).print(renderable)
    return out.getvalue()


def _all() -> dict[str, tuple[RenderableType, list[str]]]:
    """Return each table with the values that must be in it unbroken."""
    tta = {
        "views": "flip", "accuracy": 0.94, "accuracy_ci95": [0.93, 0.95], "top5_accuracy": None, "loss": 0.2,
        "ece": 0.01, "macro": MACRO, "balanced_accuracy": 0.75,
    }  # fmt: skip
    return {
        "key_values": (tables.key_values({"data": HOSTILE, "seed": "7"}, "Run"), ["Run", "data", HOSTILE, "7"]),
        "layers": (tables.layers([LAYER, LAYER]), ["prep", "1,856", "3,712", "total"]),
        "range_test": (
            tables.range_test(_range_test()),
            [HOSTILE, "0.123", "edge of", "LRMIN", "0.04", "LRMAX", "0.4", "it bends", "warning: few [b]steps"],
        ),
        "evaluation": (
            tables.evaluation(_evaluation()),
            [HOSTILE, "10,000", "93.12 %", "92.61 to 93.60 %", "99.10 %", "0.2500", "2.00 %"],
        ),
        "evaluation_tta": (
            tables.evaluation(_evaluation(tta=tta)),
            [HOSTILE, "plain", "93.12 %", "flip", "94.00 %", "-"],
        ),
        "per_class": (
            tables.per_class([CLASS], MACRO),
            [HOSTILE, "93.12", "100.00", "50.00", "12,345", "macro", "12.50", "25.00", "37.50"],
        ),
        "confused_pairs": (
            tables.confused_pairs([{**PAIR, "actual": HOSTILE}]),
            [HOSTILE, "dog", "1,234", "45.6"],
        ),
        "mistakes": (tables.mistakes([IMAGE]), ["cat/1.png", "31.0", "dog 62.0"]),
        "stack": (
            tables.stack(tables.confused_pairs([PAIR]), tables.mistakes([])),
            ["1,234", "Most confident"],
        ),
        "gradcam_images": (tables.gradcam_images([IMAGE]), ["9123", "31.0", "dog 62.0"]),
        "cam_layers": (
            tables.cam_layers({"layer1.res.0": (128, 16, 16)}, "layer3"),
            ["layer1.res.0", "128", "16 x 16"],
        ),
        "faithfulness": (
            tables.faithfulness({HOSTILE: FAITHFULNESS}),
            [HOSTILE, "12.3", "15.8", "65.5", "14.7", "83.3", "29.2", "30.5", "51.5", "11.2", "3 of 25"],
        ),
    }


@pytest.mark.parametrize("name", _all())
@pytest.mark.parametrize("width", [40, 100])
def test_every_value_is_unbroken_and_no_line_is_too_wide(name: str, width: int) -> None:
    table, values = _all()[name]
    text = _print(table, width)
    assert [value for value in values if value not in text] == []
    assert max(len(line) for line in text.splitlines()) <= width


LONG = "[" + 70 * "Ω" + "]"
FOLDED: list[RenderableType] = [
    tables.key_values({LONG: "x"}),
    tables.layers([replace(LAYER, name=LONG)]),
    tables.range_test(_range_test(suggestions={LONG: 1})),
    tables.evaluation(_evaluation(data=LONG)),
    tables.per_class([{**CLASS, "name": LONG}], MACRO),
    tables.confused_pairs([{**PAIR, "actual": LONG}]),
    tables.mistakes([{**IMAGE, "file": LONG}]),
    tables.gradcam_images([{**IMAGE, "predicted": LONG}]),
]


@pytest.mark.parametrize("table", FOLDED)
def test_long_names_fold_without_losing_a_character(table: RenderableType) -> None:
    text = _print(table, 40)
    assert text.count("Ω") == 70
    assert max(len(line) for line in text.splitlines()) <= 40


@pytest.mark.parametrize("name", _all())
def test_no_color_writes_no_color(name: str) -> None:
    text = _print(_all()[name][0], force_terminal=True, no_color=True, color_system="truecolor")
    assert not any(f"\x1b[{code}m" in text for code in ("31", "32", "33", "1;32"))


def test_color_on_a_terminal_marks_the_lr_bounds() -> None:
    text = _print(_all()["range_test"][0], force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;32m" in text


def test_control_characters_in_a_name_do_not_reach_the_terminal() -> None:
    text = _print(tables.confused_pairs([{**PAIR, "actual": "a\x1b[2Jb", "predicted": "c\nd"}]), 100)
    assert "\x1b" not in text and "a\\x1b[2Jb" in text and "c\\nd" in text


def test_a_range_test_says_how_far_its_rules_differ() -> None:
    rules = ("steepest", "valley", "minimum_over_10", "accuracy_plateau", "edge_of_divergence")
    text = _print(tables.range_test(_range_test(suggestions=dict(zip(rules, (1, 2, 3, 4, 12.9), strict=True)))), 80)
    assert "The five rules differ by a factor of 12.9." in text
    assert "minimum / 10" in text and "accuracy plateau" in text


def test_a_class_without_images_has_no_metrics() -> None:
    empty = dict.fromkeys(("precision", "recall", "recall_ci95", "f1"))
    text = _print(tables.per_class([CLASS, {"name": "owl", **empty, "support": 0}], MACRO), 80)
    assert ["owl", "-", "-", "-", "0"] in [line.split() for line in text.splitlines()]
    assert "macro average of the 1 with images" in text


def test_balanced_accuracy_stands_below_accuracy_where_the_classes_are_uneven() -> None:
    even = [{"support": 5}, {"support": 0}, {"support": 5}]
    assert "balanced" not in _print(tables.evaluation(_evaluation(per_class=even)))
    lines = _print(tables.evaluation(_evaluation(per_class=[*even, {"support": 4}]))).splitlines()
    assert [line.split()[:3] for line in lines if "accuracy" in line][:2] == [
        ["accuracy", "93.12", "%"], ["balanced", "accuracy", "50.00"],
    ]  # fmt: skip


def test_an_own_image_has_no_actual_class() -> None:
    row = {"index": 0, "file": "me.jpg", "actual": None, "predicted": "dog", "p_actual": None, "p_predicted": 1.0}
    assert _print(tables.gradcam_images([row]), 80).splitlines()[-1].split() == ["0", "me.jpg", "-", "dog", "100.0"]


def test_without_masks_the_scores_of_the_object_are_left_out() -> None:
    names = ("pointing", "pointing_random", "pointing_centre", "energy_on_object", "energy_on_object_random")
    text = _print(tables.faithfulness({"predicted": {**FAITHFULNESS, **dict.fromkeys(names)}}))
    assert "deletion" in text
    assert "pointing" not in text and "object" not in text


def test_an_epoch_is_one_plain_line_with_all_its_metrics() -> None:
    line = tables.epoch_line(EPOCH, 24, "test")
    assert " ".join(line.split()) == (
        "epoch 5/24 lr 0.4 momentum 0.950 train loss 1.5000 accuracy 45.67 % "
        "test loss 1.2500 accuracy 93.12 % 12,346 images/s 4.0 s"
    )
    assert "\n" not in line and "\x1b" not in line


def test_epoch_lines_have_fixed_columns_with_or_without_an_evaluation() -> None:
    lines = [
        tables.epoch_line(replace(EPOCH, epoch=1, lr=0.04, test_loss=None, test_accuracy=None), 24, "test"),
        tables.epoch_line(replace(EPOCH, epoch=24, lr=0.000123, test_loss=12.5, test_accuracy=1.0), 24, "test"),
    ]
    assert len({line.index("test loss") for line in lines}) == 1
    assert len({line.index("images/s") for line in lines}) == 1
    assert lines[0].split()[12:17] == ["test", "loss", "-", "accuracy", "-"]


def test_the_table_of_epochs_shows_the_split_of_the_evaluation() -> None:
    lines = _print(tables.epochs([replace(EPOCH, val_loss=0.5, val_accuracy=0.75)], "val"), 100).splitlines()
    assert "val accuracy" in lines[0]
    assert lines[-1].split() == ["5", "0.4", "1.500", "45.67", "%", "0.500", "75.00", "%", "12,346", "4.0"]


def test_progress_shows_position_and_metrics_of_the_current_epoch() -> None:
    step = StepResult(step=97, lr=0.1, momentum=0.9, loss=9.0, num_correct=1, num_images=512, seconds=0.5)
    totals = EpochTotals(loss=2000.0, num_correct=500, num_images=1000, seconds=1.0)
    table = tables.progress(step, totals, num_steps=2352, steps_per_epoch=98, time_left="0 min 41 s")
    values = " ".join(_print(table, 120).splitlines()[-1].split())
    assert values == "1/24 98/2,352 0.1 0.900 2.000 50.0 % 1,024 0 min 41 s"


def test_importing_tables_loads_neither_matplotlib_nor_torch() -> None:
    code = "import sys, scsuite.report.tables; print({'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "set()"
