"""Results as tables for a terminal, and the plain line an epoch that logs and pipes get.

In: plain results, fractions in [0, 1]. Out: rich renderables (or a string), with percent for fractions.
Names come from outside: each is put in a `Text`, whose brackets are letters and not markup.
Numbers never break; where the terminal is narrow, words fold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scsuite.report import words

TITLE, HEAD, QUIET, CHOSEN, WARNING = "bold", "dim", "dim", "bold green", "yellow"


def key_values(rows: Mapping[str, str], title: str | None = None) -> Table:
    """Names and values, without lines."""
    table = _table(title, box=None, show_header=False)
    _words(table, "", style=QUIET)
    _words(table, "")
    for name, value in rows.items():
        table.add_row(_text(name), _text(value))
    return table


def layers(rows: Sequence[tuple[str, str, str, int]], total: int) -> Table:
    """The network, a layer a row: name, operations, output shape, parameters."""
    table = _table(None, show_footer=True)
    _words(table, "layer", footer="total")
    _words(table, "operations", style=QUIET)
    _words(table, "output")
    _numbers(table, "parameters", footer=words.count(total))
    for name, operations, shape, parameters in rows:
        table.add_row(_text(name), _text(operations), _text(shape), words.count(parameters))
    return table


def epoch_line(
    *,
    epoch: int,
    epochs: int,
    lr: float,
    momentum: float,
    train_loss: float,
    train_accuracy: float,
    test_loss: float | None,
    test_accuracy: float | None,
    images_per_second: float,
    seconds: float,
    held_out: str,
) -> str:
    """One epoch on one line, in columns that stay where they are from line to line; `-` where nothing was measured."""
    digits = len(str(epochs))
    return "  ".join(
        (
            f"epoch {epoch:>{digits}}/{epochs}",
            f"lr {lr:<8.3g}",
            f"momentum {momentum:.3f}",
            f"train loss {words.number(train_loss):>7} accuracy {words.percent(train_accuracy):>8}",
            f"{held_out} loss {words.number(test_loss):>7} accuracy {words.percent(test_accuracy):>8}",
            f"{words.count(images_per_second):>7} images/s",
            f"{words.number(seconds, 1):>6} s",
        )
    )


def epochs(rows: Sequence[Mapping[str, Any]], held_out: str) -> Table:
    """The epochs so far, a row each: the columns of metrics.csv; `held_out` is test or val."""
    table = _table(None)
    for head in ("epoch", "rate", "loss", "accuracy", f"{held_out} loss", f"{held_out} accuracy", "images/s", "s"):
        _numbers(table, head)
    for row in rows:
        table.add_row(
            str(row["epoch"]),
            words.rate(row["lr"]),
            words.number(row["train_loss"], 3),
            words.percent(row["train_accuracy"]),
            words.number(row[f"{held_out}_loss"], 3),
            words.percent(row[f"{held_out}_accuracy"]),
            words.count(row["images_per_second"]),
            words.number(row["seconds"], 1),
        )
    return table


def progress(
    *,
    epoch: int,
    epochs: int,
    step: int,
    steps: int,
    lr: float,
    momentum: float,
    loss: float,
    accuracy: float,
    images_per_second: float,
    left: str,
) -> Table:
    """Where a training stands, one row to be redrawn in place; loss and accuracy are those of the epoch so far."""
    table = _table(None)
    cells = {
        "epoch": f"{epoch}/{epochs}",
        "step": f"{words.count(step)}/{words.count(steps)}",
        "rate": words.rate(lr),
        "momentum": f"{momentum:.3f}",
        "loss": words.number(loss, 3),
        "accuracy": words.percent(accuracy, 1),
        "images/s": words.count(images_per_second),
        "left": left,
    }
    for head in cells:
        _numbers(table, head)
    table.add_row(*cells.values())
    return table


def range_test(
    *, suggestions: Mapping[str, float], lr_min: float, lr_max: float, reason: str, warnings: Sequence[str]
) -> RenderableType:
    """What each rule suggests, the pair that was chosen, why, and what speaks against it."""
    table = _table("Learning-rate range test")
    _words(table, "rule")
    _numbers(table, "learning rate")
    for name, lr in suggestions.items():
        table.add_row(_text(name), words.rate(lr))
    if suggestions:
        table.add_section()
    for name, lr in {"LRMIN": lr_min, "LRMAX": lr_max}.items():
        table.add_row(name, words.rate(lr), style=CHOSEN)
    notes = [_text(reason, QUIET)] if reason else []
    if len(suggestions) > 1:
        apart = max(suggestions.values()) / min(suggestions.values())
        notes.append(_text(f"The rules lie apart by a factor of {apart:,.1f}.", QUIET))
    notes += [_text(f"warning: {warning}", WARNING) for warning in warnings]
    return Group(table, "", *notes)


def stacked(*parts: Table) -> RenderableType:
    """Tables one below the other, an empty line between two."""
    return Group(*(piece for part in parts for piece in (part, "")))


def evaluation(name: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of one evaluation, a column for each way it was done: plain, and with test-time augmentation."""
    table = _table(name, show_header=len(columns) > 1)
    _words(table, "", style=QUIET)
    for head in columns:
        _numbers(table, head)
    for key, write in _FIGURES.items():
        table.add_row(key, *(write(figures) for figures in columns.values()))
    return table


def _interval(figures: Mapping[str, Any]) -> str:
    low, high = figures["accuracy_ci95"]
    return f"{_share(low)} to {words.percent(high)}"


_FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "images": lambda figures: words.count(figures["num_images"]),
    "accuracy": lambda figures: words.percent(figures["accuracy"]),
    "95 % interval": _interval,
    "top-5 accuracy": lambda figures: words.percent(figures["top5_accuracy"]),
    "loss": lambda figures: words.number(figures["loss"]),
    "calibration error": lambda figures: words.percent(figures["ece"]),
}


def per_class(rows: Sequence[Mapping[str, Any]], macro: Mapping[str, float]) -> Table:
    """Precision, recall and F1 of each class (`name, precision, recall, f1, support`) and their means, in percent.

    A class without images has none of them.
    """
    table = _table("Classes (%); recall is a class's accuracy", show_footer=True)
    _words(table, "class", footer="macro average")
    for head, key in {"prec.": "precision", "recall": "recall", "F1": "f1"}.items():
        _numbers(table, head, footer=_share(macro[key]))
    _numbers(table, "images", footer=words.count(sum(row["support"] for row in rows)))
    for row in rows:
        shares = (_share(row[key] if row["support"] else None) for key in ("precision", "recall", "f1"))
        table.add_row(_text(row["name"]), *shares, words.count(row["support"]))
    return table


def confused(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The most confused pairs: what an image was, what the network said, how often, and in which share of the class."""
    table = _table("Most confused")
    _words(table, "actual")
    _words(table, "predicted")
    _numbers(table, "images")
    _numbers(table, "% of actual")
    for pair in pairs:
        numbers = words.count(pair["images"]), _share(pair["share"], 1)
        table.add_row(_text(pair["actual"]), _text(pair["predicted"]), *numbers)
    return table


def mistakes(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Misclassified images: `file, actual, predicted, p_actual, p_predicted`."""
    table = _table("Most confident mistakes")
    _words(table, "file")
    _words(table, "actual, %")
    _words(table, "predicted, %")
    for row in rows:
        table.add_row(_text(row["file"]), _likely(row, "actual"), _likely(row, "predicted"))
    return table


def cams(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Grad-CAM's images: `index, actual, predicted, p_actual, p_predicted`.

    A user's own picture has no actual class. Each class stands with its probability, so that 40 columns are enough.
    """
    table = _table("Images")
    _words(table, "image")
    _words(table, "actual, %")
    _words(table, "predicted, %")
    for row in rows:
        table.add_row(_text(row["index"]), _likely(row, "actual"), _likely(row, "predicted"))
    return table


def cam_layers(shapes: Mapping[str, Sequence[int]], default: str) -> Table:
    """The layers that Grad-CAM can look at, with the shape of what each gives."""
    table = _table("Layers")
    _words(table, "layer")
    _numbers(table, "channels")
    _numbers(table, "map")
    for name, (channels, height, width) in shapes.items():
        table.add_row(
            _text(name), words.count(channels), f"{height} x {width}", style=CHOSEN if name == default else ""
        )
    return table


def trust(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Whether maps can be trusted: for each class (predicted, actual, ...) the scores of `core.cam.Trust`."""
    table = _table("Can the maps be trusted? (%)")
    _words(table, "score")
    for head in ("map", "random", "centre"):
        _numbers(table, head)
    rows = {
        "deletion": "deletion, best low", "insertion": "insertion, best high",
        "pointing": "pointing game", "inside": "evidence on object",
    }  # fmt: skip
    for name, of_class in scores.items():
        table.add_section()
        table.add_row(_text(name, TITLE))
        for key, said in rows.items():
            if of_class[key] is not None:
                centre = of_class.get(f"{key}_centre")
                known = [_share(share, 1) for share in (of_class[key], of_class[f"{key}_random"])]
                table.add_row(said, *known, "" if centre is None else _share(centre, 1))
        table.add_row("empty maps", f"{of_class['num_empty']} of {of_class['num_images']}")
    return table


def _likely(row: Mapping[str, Any], key: str) -> Text:
    name, share = row.get(key), row.get(f"p_{key}")
    said = words.NOTHING if name is None else str(name)
    return _text(said if share is None else f"{said} {_share(share, 1)}")


def _share(fraction: float | None, decimals: int = 2) -> str:
    """Percent for a column whose head says so."""
    return words.percent(fraction, decimals).removesuffix(" %")


def _table(title: str | None, *, box: box.Box | None = box.SIMPLE_HEAD, **facts: Any) -> Table:
    return Table(
        title=None if title is None else _text(title, TITLE),
        title_justify="left",
        box=box,
        header_style=HEAD,
        padding=(0, 1 if box else 2, 0, 0),  # two columns between two cells: a box brings one of its own
        pad_edge=False,
        show_edge=False,
        **facts,
    )


def _words(table: Table, head: str, **facts: Any) -> None:
    """A column whose cells fold where the terminal is narrow."""
    table.add_column(head, overflow="fold", **facts)


def _numbers(table: Table, head: str, **facts: Any) -> None:
    """A column whose cells stay whole."""
    table.add_column(head, justify="right", no_wrap=True, **facts)


def _text(value: object, style: str = "") -> Text:
    return Text(words.clean(value), style=style, overflow="fold")
