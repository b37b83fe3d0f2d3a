"""`scsuite gradcam`: what the network looked at, by default on the images that it got wrong, for both classes."""

import difflib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import create_run, finish, device_info, log_figures
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.console import Terminal
from scsuite.cli.trained import Trained, load_test_data, load_trained
from scsuite.core.config import GradcamConfig
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scsuite.core.evaluation.metrics import Evaluation
    from scsuite.core.runs.rundir import RunDir


Maps = Mapping[str, "NDArray[np.float32]"]  # name -> maps_NHW

SHOWN = 512  # pixels; the longer side of a picture of one's own, as drawn


@dataclass(frozen=True)
class Chosen:
    """The images to look at, and what the network says of each; `actual` is -1 where nobody told its class."""

    images_NHWC: "NDArray[np.uint8]"
    actual: list[int]
    predicted: list[int]
    probabilities_NK: "NDArray[np.float32]"
    index: list[int]
    files: list[str]
    masks_NHW: "NDArray[np.bool_] | None" = None


@dataclass(frozen=True)
class Shown:
    """The pictures as drawn, and by name the maps as large as these; sizes may differ."""

    images: Any
    maps: Mapping[str, Any]


@options(GradcamConfig)
def gradcam(config: GradcamConfig, output: OutputOptions) -> None:
    """Show where a trained network found its evidence: Grad-CAM maps for the predicted and the actual class."""
    from scsuite.core.cam import find_layers
    from scsuite.report import tables

    begin = time.perf_counter()
    terminal = Terminal(output)
    trained = load_trained(config, terminal)
    if config.list_layers:
        _list_layers(trained, terminal, begin)
        return
    targets_of = _targets(config, trained)
    find_layers(trained.model, config.layer)  # refused before anything is read or computed
    chosen = _own_pictures(config, trained) if config.images else _test_images(config, trained, terminal)
    targets = {name: labels for name, labels in targets_of(chosen).items() if labels}
    maps, scores = _explain(chosen, targets, config, trained)
    facts = {**device_info(trained.device), "checkpoint": trained.path}
    with create_run(output, "gradcam", _name(trained, config), config, terminal, **facts) as run:
        shown = _originals(chosen, maps) if config.images else Shown(chosen.images_NHWC, maps)
        figure = _draw(run.figure("gradcam"), chosen, shown, targets, scores, config, trained)
        rows = _rows(chosen, trained.class_names, maps)
        if rows:
            terminal.log_table(tables.cams(rows))
            terminal.log_table(tables.trust(scores))
        else:
            terminal.log_line("gradcam   no image fits the selection")
        log_figures(terminal, figure)
        result = {
            "command": "gradcam",
            "run_dir": str(run.path),
            "figure": str(figure),
            "method": config.method,
            "layer": config.layer or trained.model.cam_layer,
            "images": rows,
            "trust": scores,
            "maps": _write_raw(run.path / "maps.safetensors", chosen, maps) if config.raw else None,
            "overlays": _write_overlays(run, chosen, shown) if config.overlays else None,
            "checkpoint": trained.path,
        }
        finish(run, terminal, result, begin)


def _list_layers(trained: Trained, terminal: Terminal, begin: float) -> None:
    """What `--layer` takes; nothing is written."""
    import torch

    from scsuite import __version__
    from scsuite.core.cam import map_shapes
    from scsuite.core.dataset import SIZE
    from scsuite.report import tables

    shapes = map_shapes(trained.model, torch.zeros(1, 3, SIZE, SIZE))
    terminal.print_table(tables.cam_layers(shapes, trained.model.cam_layer))
    layers = [{"name": name, "channels": c, "height": h, "width": w} for name, (c, h, w) in shapes.items()]
    terminal.print_json(
        {
            "command": "gradcam", "version": __version__, "run_dir": None, "checkpoint": trained.path,
            "layer": trained.model.cam_layer, "layers": layers, "seconds": time.perf_counter() - begin,
        }
    )  # fmt: skip


def _explain(
    chosen: Chosen, targets: Mapping[str, list[int]], config: GradcamConfig, trained: Trained
) -> tuple[Maps, dict[str, dict[str, Any]]]:
    """By name, the maps of these classes and how far they can be trusted."""
    from scsuite.core.augment import normalise
    from scsuite.core.cam import grad_cam, trust

    images_NCHW = normalise(chosen.images_NHWC, trained.mean, trained.std)
    maps, scores = {}, {}
    for name, labels in targets.items():
        maps[name] = grad_cam(trained.model, images_NCHW, labels, method=config.method, layer=config.layer).numpy()
        scores[name] = asdict(
            trust(trained.model, images_NCHW, labels, maps[name], keys=chosen.index, masks_NHW=chosen.masks_NHW)
        )
    return maps, scores


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
        masks_NHW=None if test.masks_NHW is None else test.masks_NHW[picked],
    )


def _own_pictures(config: GradcamConfig, trained: Trained) -> Chosen:
    import numpy as np

    from scsuite.core.dataset import Split
    from scsuite.core.dataset.image_file import read_image_32

    images_NHWC = np.stack([read_image_32(path) for path in config.images])
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


def _rows(chosen: Chosen, names: tuple[str, ...], maps: Maps) -> list[dict[str, Any]]:
    return [
        {
            "index": chosen.index[i],
            "file": chosen.files[i],
            "actual": None if actual < 0 else names[actual],
            "predicted": names[predicted],
            "p_actual": None if actual < 0 else float(chosen.probabilities_NK[i, actual]),
            "p_predicted": float(chosen.probabilities_NK[i, predicted]),
            "empty": [name for name, maps_NHW in maps.items() if maps_NHW[i].max() <= 0],
        }
        for i, (actual, predicted) in enumerate(zip(chosen.actual, chosen.predicted, strict=True))
    ]


def _draw(
    path: Path,
    chosen: Chosen,
    shown: Shown,
    targets: Mapping[str, list[int]],
    scores: Mapping[str, Mapping[str, Any]],
    config: GradcamConfig,
    trained: Trained,
) -> Path:
    from scsuite.report import figures, words

    captions = []
    for i, probabilities in enumerate(chosen.probabilities_NK):
        named = {name: (trained.class_names[labels[i]], probabilities[labels[i]]) for name, labels in targets.items()}
        caption = {name: f"{name} {said} {share:.2f}" for name, (said, share) in named.items() if name != said}
        caption |= {name: f"{said} {share:.2f}" for name, (said, share) in named.items() if name == said}
        captions.append(
            {"image": Path(chosen.files[i]).name if config.images else f"test {chosen.index[i]}", **caption}
        )
    title = f"{config.method} at {config.layer or trained.model.cam_layer}: {config.select} images"
    title = title if not config.images else title.replace(f"{config.select} images", "your pictures")
    columns, notes = 2 if len(shown.maps) > 1 else 3, words.trust_notes(scores)
    figures.gradcam(shown.images, path, maps=shown.maps, captions=captions, columns=columns, title=title, notes=notes)
    return path


def _originals(chosen: Chosen, maps: Maps) -> Shown:
    """The user's own pictures as they are, no side longer than SHOWN, and the maps as large as these."""
    import torch

    from scsuite.core.cam import laid_over
    from scsuite.core.dataset.image_file import read_image_resized

    pictures = [read_image_resized(path, SHOWN) for path in chosen.files]
    laid = {
        name: [
            laid_over(torch.from_numpy(map_HW), *picture.shape[:2]).numpy()
            for map_HW, picture in zip(maps_NHW, pictures, strict=True)
        ]
        for name, maps_NHW in maps.items()
    }
    return Shown(pictures, laid)


def _write_raw(path: Path, chosen: Chosen, maps: Maps) -> str:
    """The maps' values as computed, N x 32 x 32 for each class, and which image each is of."""
    import numpy as np
    from safetensors.numpy import save

    from scsuite.core.files import write_atomic

    write_atomic(path, save({**maps, "index": np.array(chosen.index, np.int64)}))
    return str(path)


def _write_overlays(run: "RunDir", chosen: Chosen, shown: Shown) -> list[str]:
    """Each map over its image as a picture of its own; an image's maps share one scale."""
    from scsuite.core.runs.rundir import slugify
    from scsuite.report.figures.galleries import single_overlay

    paths = []
    for i, image in enumerate(shown.images):
        strongest = max(float(of_class[i].max()) for of_class in shown.maps.values())
        for name, of_class in shown.maps.items():
            path = run.figure(f"overlay-{chosen.index[i]}-{slugify(name)}")
            single_overlay(image, path, of_class[i], strongest)
            paths.append(str(path))
    return paths
