"""`scsuite gradcam`: what the network looked at, by default on the images that it got wrong, for both classes."""

import difflib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import create_run, finish, machine_facts, say_figures
from scsuite.cli.options import Output, options
from scsuite.cli.terminal import Terminal
from scsuite.cli.trained import Trained, load_test_data, load_trained
from scsuite.core.config import GradcamConfig
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scsuite.core.metrics import Evaluation


@dataclass(frozen=True)
class Chosen:
    """The images to look at, and what the network says of each; `actual` is -1 where nobody told its class."""

    images_NHWC: "NDArray[np.uint8]"
    actual: list[int]
    predicted: list[int]
    probabilities_NK: "NDArray[np.float32]"
    index: list[int]
    files: list[str]


@options(GradcamConfig)
def gradcam(config: GradcamConfig, output: Output) -> None:
    """Show where a trained network found its evidence: Grad-CAM maps for the predicted and the actual class."""
    from scsuite.core.augment import normalise
    from scsuite.core.cam import find_layers, grad_cam
    from scsuite.report import tables

    begin = time.perf_counter()
    terminal = Terminal(output)
    trained = load_trained(config, terminal)
    targets_of = _targets(config, trained)
    find_layers(trained.model, config.layer)  # refused before anything is read or computed
    chosen = _own_pictures(config, trained) if config.images else _test_images(config, trained, terminal)
    images_NCHW = normalise(chosen.images_NHWC, trained.mean, trained.std)
    maps = {
        name: grad_cam(trained.model, images_NCHW, targets, method=config.method, layer=config.layer).numpy()
        for name, targets in targets_of(chosen).items()
        if targets
    }
    facts = {**machine_facts(trained.arithmetic), "checkpoint": trained.path}
    with create_run(output, "gradcam", _name(trained, config), config, terminal, **facts) as run:
        figure = _draw(run.figure("gradcam"), chosen, maps, targets_of(chosen), config, trained)
        rows = _rows(chosen, trained.class_names)
        if rows:
            terminal.print(tables.cams(rows))
        else:
            terminal.line("gradcam   no image fits the selection")
        say_figures(terminal, figure)
        result = {
            "command": "gradcam",
            "run_dir": str(run.path),
            "figure": str(figure),
            "method": config.method,
            "layer": config.layer or trained.model.cam_layer,
            "images": rows,
            "checkpoint": trained.path,
        }
        finish(run, terminal, result, begin)


def _name(trained: Trained, config: GradcamConfig) -> str:
    return "pictures" if config.images else Path(str(config.data or trained.settings.data)).name.partition(".")[0]


def _targets(config: GradcamConfig, trained: Trained) -> Any:
    """A function from the chosen images to {name of a map: class of each image}; a wrong --class is refused here."""
    if config.class_ in ("predicted", "actual", "both"):
        names = ("predicted", "actual") if config.class_ == "both" else (config.class_,)
        if config.images and config.class_ == "actual":
            raise UsageError(
                "option", "--class", expected="predicted or a class name with --images", found="actual",
                hint="Nobody told the classes of these pictures.",
            )  # fmt: skip
        names = ("predicted",) if config.images else names
        return lambda chosen: {name: getattr(chosen, name) for name in names}
    if config.class_ not in trained.class_names:
        near = difflib.get_close_matches(config.class_, trained.class_names, n=1)
        raise UsageError(
            "option", "--class", expected=f"predicted, actual, both or one of {', '.join(trained.class_names[:20])}",
            found=repr(config.class_), hint=f"Did you mean {near[0]}?" if near else "Choose one of these.",
        )  # fmt: skip
    label = trained.class_names.index(config.class_)
    return lambda chosen: {config.class_: [label] * len(chosen.predicted)}


def _test_images(config: GradcamConfig, trained: Trained, terminal: Terminal) -> Chosen:
    test = load_test_data(config, trained, terminal).test
    if outside := [i for i in config.indices or () if i >= len(test)]:
        raise UsageError(
            "option", "--select", expected=f"indices from 0 to {len(test) - 1}", found=outside[0],
            hint="Choose among the test images.",
        )  # fmt: skip
    seen = trained.evaluate(test)
    picked = select(config, seen)
    return Chosen(
        images_NHWC=test.images_NHWC[picked],
        actual=seen.labels_N[picked].tolist(),
        predicted=seen.predicted_N[picked].tolist(),
        probabilities_NK=seen.probabilities_NK[picked],
        index=[int(i) for i in picked],
        files=[test.files[i] for i in picked],
    )


def _own_pictures(config: GradcamConfig, trained: Trained) -> Chosen:
    import numpy as np

    from scsuite.core.dataset import Split
    from scsuite.core.dataset.decode import read_image

    images_NHWC = np.stack([read_image(path) for path in config.images])
    seen = trained.evaluate(Split(images_NHWC, np.zeros(len(images_NHWC), np.int64), config.images))
    return Chosen(
        images_NHWC=images_NHWC,
        actual=[-1] * len(images_NHWC),
        predicted=seen.predicted_N.tolist(),
        probabilities_NK=seen.probabilities_NK,
        index=list(range(len(images_NHWC))),
        files=[str(Path(path).absolute()) for path in config.images],
    )


def select(config: GradcamConfig, seen: "Evaluation") -> "NDArray[np.int64]":
    """Indices of the test images to look at."""
    import numpy as np

    if config.indices is not None:
        return np.array(config.indices[: config.count])

    correct_N = seen.predicted_N == seen.labels_N
    by_confidence = np.argsort(-seen.confidence_N, kind="stable")
    chosen: dict[str, NDArray[np.int64]] = {
        "misclassified": seen.misclassified,
        "correct": by_confidence[correct_N[by_confidence]],
        "confident": by_confidence,
        "unsure": by_confidence[::-1],
        "all": np.arange(seen.num_images),
    }
    return chosen[config.select][: config.count]


def _rows(chosen: Chosen, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "index": chosen.index[i],
            "file": chosen.files[i],
            "actual": None if actual < 0 else names[actual],
            "predicted": names[predicted],
            "p_actual": None if actual < 0 else float(chosen.probabilities_NK[i, actual]),
            "p_predicted": float(chosen.probabilities_NK[i, predicted]),
        }
        for i, (actual, predicted) in enumerate(zip(chosen.actual, chosen.predicted, strict=True))
    ]


def _draw(
    path: Path,
    chosen: Chosen,
    maps: dict[str, Any],
    targets: dict[str, list[int]],
    config: GradcamConfig,
    trained: Trained,
) -> Path:
    from scsuite.report import figures

    captions = []
    for i, probabilities in enumerate(chosen.probabilities_NK):
        words = {name: (trained.class_names[labels[i]], probabilities[labels[i]]) for name, labels in targets.items()}
        caption = {name: f"{name} {said} {share:.2f}" for name, (said, share) in words.items() if name != said}
        caption |= {name: f"{said} {share:.2f}" for name, (said, share) in words.items() if name == said}
        captions.append(
            {"image": Path(chosen.files[i]).name if config.images else f"test {chosen.index[i]}", **caption}
        )
    title = f"{config.method} at {config.layer or trained.model.cam_layer}: {config.select} images"
    title = title if not config.images else title.replace(f"{config.select} images", "your pictures")
    figures.gradcam(chosen.images_NHWC, path, maps=maps, captions=captions, columns=3, title=title)
    return path
