"""Results as tables for a terminal, and one plain line per epoch for logs and pipes.

In: result objects of core; fractions are in [0, 1]. Out: rich tables (or a string) with percent for fractions.
Names come from the user's files: each becomes a `Text`, in which brackets are not markup. Numbers never break; on a
narrow terminal, text folds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scsuite.core.errors import escape
from scsuite.report import formatting

if TYPE_CHECKING:
    from scsuite.core.evaluation.predict import Prediction
    from scsuite.core.lr_range.range_test import RangeTest
    from scsuite.core.model.summary import LayerSummary
    from scsuite.core.runs.results import EpochResult, EvaluateResult, StepResult
    from scsuite.core.training.state import EpochTotals

TITLE, HEADER, DIM, HIGHLIGHT, WARNING = "bold", "dim", "dim", "bold green", "yellow"


def key_values(rows: Mapping[str, str], title: str | None = None) -> Table:
    """Return names and values, without lines."""
    table = _table(title, box=None, show_header=False)
    _text_column(table, "", style=DIM)
    _text_column(table, "")
    for name, value in rows.items():
        table.add_row(_cell(name), _cell(value))
    return table


def layers(rows: "Sequence[LayerSummary]") -> Table:
    """Return the layers of a network: operations, output shape, parameters."""
    table = _table(None, show_footer=True)
    _text_column(table, "layer", footer="total")
    _text_column(table, "operations", style=DIM)
    _text_column(table, "output")
    _number_column(table, "parameters", footer=formatting.count(sum(row.num_parameters for row in rows)))
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(_cell(row.name), _cell(row.operations), shape, formatting.count(row.num_parameters))
    return table


def epoch_line(result: "EpochResult", epochs: int, eval_split: str) -> str:
    """Return one epoch on one line, in fixed columns, with `-` for what was not measured."""
    loss, accuracy = result.eval_loss(eval_split), result.eval_accuracy(eval_split)
    return "  ".join(
        (
            f"epoch {result.epoch:>{len(str(epochs))}}/{epochs}",
            f"lr {result.lr:<8.3g}",
            f"momentum {result.momentum:.3f}",
            f"train loss {formatting.number(result.train_loss):>7}"
            f" accuracy {formatting.percent(result.train_accuracy):>8}",
            f"{eval_split} loss {formatting.number(loss):>7} accuracy {formatting.percent(accuracy):>8}",
            f"{formatting.count(result.images_per_second):>7} images/s",
            f"{formatting.number(result.seconds, 1):>6} s",
        )
    )


def epochs(results: "Sequence[EpochResult]", eval_split: str) -> Table:
    """Return one row per epoch: the columns of metrics.csv, with those of `eval_split` (test or val)."""
    table = _table(None)
    for head in ("epoch", "LR", "loss", "accuracy", f"{eval_split} loss", f"{eval_split} accuracy", "images/s", "s"):
        _number_column(table, head)
    for result in results:
        table.add_row(
            str(result.epoch),
            formatting.learning_rate(result.lr),
            formatting.number(result.train_loss, 3),
            formatting.percent(result.train_accuracy),
            formatting.number(result.eval_loss(eval_split), 3),
            formatting.percent(result.eval_accuracy(eval_split)),
            formatting.count(result.images_per_second),
            formatting.number(result.seconds, 1),
        )
    return table


def progress(
    step: "StepResult", totals: "EpochTotals", *, num_steps: int, steps_per_epoch: int, time_left: str
) -> Table:
    """Return the position of a training as one row, to be redrawn in place; `totals` are those of the current epoch."""
    cells = {
        "epoch": f"{step.step // steps_per_epoch + 1}/{num_steps // steps_per_epoch}",
        "step": f"{formatting.count(step.step + 1)}/{formatting.count(num_steps)}",
        "LR": formatting.learning_rate(step.lr),
        "momentum": f"{step.momentum:.3f}",
        "loss": formatting.number(totals.loss / totals.num_images, 3),
        "accuracy": formatting.percent(totals.num_correct / totals.num_images, 1),
        "images/s": formatting.count(step.num_images / step.seconds),
        "time left": time_left,
    }
    table = _table(None)
    for head in cells:
        _number_column(table, head)
    table.add_row(*cells.values())
    return table


def range_test(test: "RangeTest") -> RenderableType:
    """Return the suggestion of each rule, the LR bounds, the reason for them, and the warnings."""
    table = _table("Learning-rate range test")
    _text_column(table, "rule")
    _number_column(table, "learning rate")
    for name, lr in test.suggestions.items():
        table.add_row(_cell(formatting.rule_label(name)), formatting.learning_rate(lr))
    if test.suggestions:
        table.add_section()
    for name, lr in {"LRMIN": test.lr_min, "LRMAX": test.lr_max}.items():
        table.add_row(name, formatting.learning_rate(lr), style=HIGHLIGHT)
    notes = [_cell(test.reason, DIM)] if test.reason else []
    if len(test.suggestions) > 1:
        factor = max(test.suggestions.values()) / min(test.suggestions.values())
        notes.append(_cell(f"The five rules differ by a factor of {factor:,.1f}.", DIM))
    notes += [_cell(f"warning: {warning}", WARNING) for warning in test.warnings]
    return Group(table, "", *notes)


def stack(*tables: Table) -> RenderableType:
    """Return tables one below the other, with an empty line after each."""
    return Group(*(part for table in tables for part in (table, "")))


def evaluation(result: "EvaluateResult") -> Table:
    """Return the overall metrics, with a second column for test-time augmentation if it was used."""
    columns: dict[str, Mapping[str, Any]] = {"plain": vars(result)}
    if result.tta is not None:
        columns[result.tta["views"]] = {**result.tta, "num_images": result.num_images}
    table = _table(result.data, show_header=len(columns) > 1)
    _text_column(table, "", style=DIM)
    for head in columns:
        _number_column(table, head)
    is_uneven = len({row["support"] for row in result.per_class if row["support"]}) > 1
    for name, write in _METRICS.items():
        if name == "balanced accuracy" and not is_uneven:  # it is the accuracy
            continue
        table.add_row(name, *(write(metrics) for metrics in columns.values()))
    return table


def _interval(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_ci95"]
    return f"{_percent_value(low)} to {formatting.percent(high)}"


_METRICS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "images": lambda metrics: formatting.count(metrics["num_images"]),
    "accuracy": lambda metrics: formatting.percent(metrics["accuracy"]),
    "95 % interval": _interval,
    "balanced accuracy": lambda metrics: formatting.percent(metrics["balanced_accuracy"]),
    "top-5 accuracy": lambda metrics: formatting.percent(metrics["top5_accuracy"]),
    "loss": lambda metrics: formatting.number(metrics["loss"]),
    "calibration error": lambda metrics: formatting.percent(metrics["ece"]),
}


def per_class(rows: Sequence[Mapping[str, Any]], macro: Mapping[str, float]) -> Table:
    """Return precision, recall and F1 of each class and their means in percent: `per_class` and `macro` of a result.

    A class without images has none of them, and the means leave it out.
    """
    num_with_images = sum(row["support"] > 0 for row in rows)
    over = "" if num_with_images == len(rows) else f" of the {num_with_images} with images"
    table = _table("Classes (%); recall is a class's accuracy", show_footer=True)
    _text_column(table, "class", footer=f"macro average{over}")
    for head, key in {"prec.": "precision", "recall": "recall", "F1": "f1"}.items():
        _number_column(table, head, footer=_percent_value(macro[key]))
    _number_column(table, "images", footer=formatting.count(sum(row["support"] for row in rows)))
    for row in rows:
        values = (_percent_value(row[key]) for key in ("precision", "recall", "f1"))
        table.add_row(_cell(row["name"]), *values, formatting.count(row["support"]))
    return table


def confused_pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Return the most confused pairs of classes: how often, and in which fraction of the actual class."""
    table = _table("Most confused")
    _text_column(table, "actual")
    _text_column(table, "predicted")
    _number_column(table, "images")
    _number_column(table, "% of actual")
    for pair in pairs:
        numbers = formatting.count(pair["count"]), _percent_value(pair["fraction"], 1)
        table.add_row(_cell(pair["actual"]), _cell(pair["predicted"]), *numbers)
    return table


def mistakes(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return misclassified images: `index, file, actual, predicted, p_actual, p_predicted`."""
    return _predictions("Most confident mistakes", rows)


def predictions(rows: "Sequence[Prediction]") -> Table:
    """Return one image per row: its file, and its most probable classes with their probabilities in percent."""
    table = _table("Predictions")
    _text_column(table, "file")
    for rank in range(1, len(rows[0].topk) + 1):
        _text_column(table, "predicted, %" if rank == 1 else f"no. {rank}, %")
    for row in rows:
        classes = (_cell(f"{item.name} {_percent_value(item.probability, 1)}") for item in row.topk)
        table.add_row(_cell(row.file), *classes)
    return table


def unreadable_files(rows: Sequence[Mapping[str, str]]) -> Table:
    """Return the files that were not predicted: `file, reason`."""
    table = _table("Not predicted")
    _text_column(table, "file")
    _text_column(table, "found", style=WARNING)
    for row in rows:
        table.add_row(_cell(row["file"]), _cell(row["reason"]))
    return table


def gradcam_images(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the images of Grad-CAM: `index, file, actual, predicted, p_actual, p_predicted`.

    A user's own image has no actual class.
    """
    return _predictions("Images", rows)


def cam_layers(shapes: Mapping[str, Sequence[int]], default: str) -> Table:
    """Return the layers that Grad-CAM can use, with their output shapes; the default layer is highlighted."""
    table = _table("Layers")
    _text_column(table, "layer")
    _number_column(table, "channels")
    _number_column(table, "map")
    for name, (channels, height, width) in shapes.items():
        style = HIGHLIGHT if name == default else ""
        table.add_row(_cell(name), formatting.count(channels), f"{height} x {width}", style=style)
    return table


def faithfulness(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the scores of `core.cam.Faithfulness` for the maps of each class: predicted, actual, or a class name."""
    table = _table("CAM faithfulness (%)")
    _text_column(table, "score")
    for head in ("map", "random", "centre"):
        _number_column(table, head)
    rows = {
        "deletion": "deletion (lower is better)",
        "insertion": "insertion (higher is better)",
        "pointing": "pointing game",
        "energy_on_object": "energy on object",
    }
    for name, class_scores in scores.items():
        table.add_section()
        table.add_row(_cell(name, TITLE))
        for key, label in rows.items():
            if class_scores[key] is not None:
                center = class_scores.get(f"{key}_centre")
                values = [_percent_value(value, 1) for value in (class_scores[key], class_scores[f"{key}_random"])]
                table.add_row(label, *values, "" if center is None else _percent_value(center, 1))
        table.add_row("maps without evidence", f"{class_scores['num_no_evidence']} of {class_scores['num_images']}")
    return table


def _predictions(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return one image per row. A class and its probability share a column, so that 40 columns are enough."""
    table = _table(title)
    _number_column(table, "index")
    _text_column(table, "file")
    _text_column(table, "actual, %")
    _text_column(table, "predicted, %")
    for row in rows:
        classes = (_class_and_probability(row, which) for which in ("actual", "predicted"))
        table.add_row(str(row["index"]), _cell(row["file"]), *classes)
    return table


def _class_and_probability(row: Mapping[str, Any], which: str) -> Text:
    name, probability = row[which], row[f"p_{which}"]
    text = formatting.MISSING if name is None else str(name)
    return _cell(text if probability is None else f"{text} {_percent_value(probability, 1)}")


def _percent_value(fraction: float | None, decimals: int = 2) -> str:
    """Write a fraction for a column whose head has the percent sign."""
    return formatting.percent(fraction, decimals).removesuffix(" %")


def _table(title: str | None, *, box: box.Box | None = box.SIMPLE_HEAD, **kwargs: Any) -> Table:
    return Table(
        title=None if title is None else _cell(title, TITLE),
        title_justify="left",
        box=box,
        header_style=HEADER,
        padding=(0, 1 if box else 2, 0, 0),  # two spaces between cells, of which a box adds one
        pad_edge=False,
        show_edge=False,
        **kwargs,
    )


def _text_column(table: Table, head: str, **kwargs: Any) -> None:
    """Add a column whose cells fold on a narrow terminal."""
    table.add_column(head, overflow="fold", **kwargs)


def _number_column(table: Table, head: str, **kwargs: Any) -> None:
    """Add a column whose cells never break."""
    table.add_column(head, justify="right", no_wrap=True, **kwargs)


def _cell(value: object, style: str = "") -> Text:
    return Text(escape(value), style=style, overflow="fold")
