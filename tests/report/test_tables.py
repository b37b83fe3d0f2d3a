"""Tables hold every value at 40 columns, take brackets in names for letters, and load no matplotlib."""

import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console, RenderableType

from scsuite.report import tables

HOSTILE = "[b]cat[/]"
ROW = {"name": HOSTILE, "precision": 0.9312, "recall": 1.0, "f1": 0.5, "support": 12345}
PAIR = {"actual": "cat", "predicted": "dog", "images": 1234, "share": 0.456}
MACRO = {"precision": 0.125, "recall": 0.25, "f1": 0.375}
FIGURES: dict[str, Any] = {
    "num_images": 10000, "accuracy": 0.9312, "accuracy_ci95": [0.9261, 0.936], "top5_accuracy": 0.991,
    "loss": 0.25, "ece": 0.02,
}  # fmt: skip
TRUST = {
    "num_images": 25, "num_empty": 3, "num_erased": 25, "deletion": 0.123, "deletion_random": 0.158, "insertion": 0.655,
    "insertion_random": 0.147, "pointing": 0.833, "pointing_random": 0.292, "pointing_centre": 0.305, "inside": 0.515,
    "inside_random": 0.112,
}  # fmt: skip
CAM = {"index": 9123, "actual": HOSTILE, "predicted": "dog", "p_actual": 0.31, "p_predicted": 0.62}


def _shown(renderable: RenderableType, width: int = 40, **facts: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **facts).print(renderable)
    return out.getvalue()


def _all() -> dict[str, tuple[RenderableType, list[str]]]:
    """Each table with the values that must stand in it whole."""
    return {
        "key_values": (tables.key_values({"data": HOSTILE, "seed": "7"}, "Run"), ["Run", "data", HOSTILE, "7"]),
        "layers": (
            tables.layers([("prep", "Conv BN ReLU", "N 64 32 32", 1856)], 6573120),
            ["prep", "1,856", "6,573,120", "total"],
        ),
        "range_test": (
            tables.range_test(
                suggestions={HOSTILE: 0.123456, "edge": float("nan")},
                lr_min=0.04,
                lr_max=0.4,
                reason="it bends",
                warnings=["few [b]steps"],
            ),
            [HOSTILE, "0.123", "-", "LRMIN", "0.04", "LRMAX", "0.4", "it bends", "warning: few [b]steps"],
        ),
        "evaluation": (
            tables.evaluation(HOSTILE, {"plain": FIGURES}),
            [HOSTILE, "10,000", "93.12 %", "92.61 to 93.60 %", "99.10 %", "0.2500", "2.00 %"],
        ),
        "evaluation_tta": (
            tables.evaluation(
                HOSTILE, {"plain": FIGURES, "flip": {**FIGURES, "accuracy": 0.94, "top5_accuracy": None}}
            ),
            [HOSTILE, "plain", "93.12 %", "flip", "94.00 %", "-"],
        ),
        "per_class": (
            tables.per_class([ROW], MACRO),
            [HOSTILE, "93.12", "100.00", "50.00", "12,345", "macro", "12.50", "25.00", "37.50"],
        ),
        "confused": (tables.confused([{**PAIR, "actual": HOSTILE}]), [HOSTILE, "dog", "1,234", "45.6"]),
        "mistakes": (tables.mistakes([{**CAM, "file": "cat/1.png"}]), ["cat/1.png", "31.0", "dog 62.0"]),
        "stacked": (tables.stacked(tables.confused([PAIR]), tables.mistakes([])), ["1,234", "Most confident"]),
        "cam_layers": (
            tables.cam_layers({"layer1.res.0": (128, 16, 16)}, "layer3"),
            ["layer1.res.0", "128", "16 x 16"],
        ),
        "trust": (
            tables.trust({HOSTILE: TRUST}),
            [HOSTILE, "12.3", "15.8", "65.5", "14.7", "83.3", "29.2", "30.5", "51.5", "11.2", "3 of 25"],
        ),
        "cams": (tables.cams([CAM]), ["9123", "31.0", "dog 62.0"]),
    }


@pytest.mark.parametrize("name", _all())
@pytest.mark.parametrize("width", [40, 100])
def test_every_value_stands_whole_and_no_line_is_too_wide(name: str, width: int) -> None:
    table, values = _all()[name]
    shown = _shown(table, width)
    assert [value for value in values if value not in shown] == []
    assert max(len(line) for line in shown.splitlines()) <= width


LONG = "[" + 70 * "Ω" + "]"
FOLDED: list[RenderableType] = [
    tables.key_values({LONG: "x"}),
    tables.layers([(LONG, "Conv", "N", 1)], 1),
    tables.range_test(suggestions={LONG: 1}, lr_min=1, lr_max=2, reason="", warnings=[]),
    tables.evaluation(LONG, {"plain": FIGURES}),
    tables.per_class([{**ROW, "name": LONG}], MACRO),
    tables.confused([{**PAIR, "actual": LONG}]),
    tables.mistakes([{**CAM, "file": LONG}]),
    tables.cams([{**CAM, "predicted": LONG}]),
]


@pytest.mark.parametrize("table", FOLDED)
def test_long_names_fold_and_lose_no_letter(table: RenderableType) -> None:
    shown = _shown(table, 40)
    assert shown.count("Ω") == 70
    assert max(len(line) for line in shown.splitlines()) <= 40


@pytest.mark.parametrize("name", _all())
def test_no_color_writes_no_color(name: str) -> None:
    shown = _shown(_all()[name][0], force_terminal=True, no_color=True, color_system="truecolor")
    assert not any(f"\x1b[{code}m" in shown for code in ("31", "32", "33", "1;32"))


def test_color_on_a_terminal_marks_the_chosen_pair() -> None:
    shown = _shown(_all()["range_test"][0], force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;32m" in shown


def test_terminal_controls_in_a_name_do_not_reach_the_terminal() -> None:
    shown = _shown(tables.confused([{**PAIR, "actual": "a\x1b[2Jb", "predicted": "c\nd"}]), 100)
    assert "\x1b" not in shown and "a\\x1b[2Jb" in shown and "c\\nd" in shown


def test_a_class_without_images_has_no_figures() -> None:
    shown = _shown(tables.per_class([{**ROW, "name": "owl", "support": 0}], MACRO))
    assert ["owl", "-", "-", "-", "0"] in [line.split() for line in shown.splitlines()]


def test_a_picture_of_ones_own_has_no_actual_class() -> None:
    row = {"index": "me.jpg", "actual": None, "predicted": "dog", "p_actual": None, "p_predicted": 1.0}
    assert _shown(tables.cams([row]), 80).splitlines()[-1].split() == ["me.jpg", "-", "dog", "100.0"]


def test_without_masks_nothing_is_said_of_the_object() -> None:
    names = ("pointing", "pointing_random", "pointing_centre", "inside", "inside_random")
    shown = _shown(tables.trust({"predicted": {**TRUST, **dict.fromkeys(names)}}))
    assert "deletion" in shown
    assert "pointing" not in shown and "object" not in shown


EPOCH: dict[str, Any] = {
    "epochs": 24,
    "momentum": 0.95,
    "train_loss": 1.5,
    "train_accuracy": 0.4567,
    "images_per_second": 12345.6,
    "seconds": 4.05,
    "held_out": "test",
}


def test_an_epoch_is_one_plain_line_with_all_its_figures() -> None:
    line = tables.epoch_line(epoch=5, lr=0.4, test_loss=1.25, test_accuracy=0.9312, **EPOCH)
    assert " ".join(line.split()) == (
        "epoch 5/24 lr 0.4 momentum 0.950 train loss 1.5000 accuracy 45.67 % "
        "test loss 1.2500 accuracy 93.12 % 12,346 images/s 4.0 s"
    )
    assert "\n" not in line and "\x1b" not in line


def test_epochs_stand_in_columns_measured_or_not() -> None:
    lines = [
        tables.epoch_line(epoch=1, lr=0.04, test_loss=None, test_accuracy=None, **EPOCH),
        tables.epoch_line(epoch=24, lr=0.000123, test_loss=12.5, test_accuracy=1.0, **EPOCH),
    ]
    assert len({line.index("test loss") for line in lines}) == 1
    assert len({line.index("images/s") for line in lines}) == 1
    assert lines[0].split()[12:17] == ["test", "loss", "-", "accuracy", "-"]


def test_importing_tables_loads_neither_matplotlib_nor_torch() -> None:
    code = "import sys, scsuite.report.tables; print({'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
