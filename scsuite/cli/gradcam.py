"""`scsuite gradcam`: what the network looked at, by default on the images that it misclassified, for both classes."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scsuite.cli.console import Terminal
from scsuite.cli.evaluation_data import evaluated_images, load_evaluation_data
from scsuite.cli.gradcam_display import figure_data, figure_footer, log_images, result_rows, write_maps, write_overlays
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.run_output import log_files, log_run
from scsuite.cli.runs import create_run, load_trained_model, write_result
from scsuite.core.config import GradcamConfig
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scsuite.core.cam import CamInputs
    from scsuite.core.dataset import Split
    from scsuite.core.evaluation.evaluate import TrainedModel


@options(GradcamConfig)
def gradcam(config: GradcamConfig, output: OutputOptions) -> None:
    """Show where a trained network found its evidence. Grad-CAM maps for the predicted and the actual class."""
    from scsuite.core.cam import resolve_layers
    from scsuite.core.runs.environment import dataset_info, device_info
    from scsuite.core.runs.results import GradcamResult
    from scsuite.report import figures

    start_time = time.perf_counter()
    terminal = Terminal(output)
    trained = load_trained_model(config, terminal)
    if config.list_layers:
        _list_layers(trained, terminal, start_time)
        return
    map_names = _map_names(config, trained.class_names)
    resolve_layers(trained.model, config.layer)  # an unknown layer is refused before anything is read or computed
    data = None if config.images else load_evaluation_data("gradcam", config, trained, terminal)
    inputs = _load_images(config, trained, None if data is None else data.test)
    classes = {name: inputs.classes(name, trained.class_names) for name in map_names if inputs.predicted}
    maps, scores = _compute_maps(inputs, classes, config, trained)
    environment = {**device_info(trained.device), "checkpoint": trained.path}
    environment |= {} if data is None else {"data": dataset_info(data)}
    name = "images" if data is None else data.name.partition(".")[0]
    with create_run(output, "gradcam", name, config, terminal, **environment) as run:
        path = run.figure_path("gradcam")
        drawn = figure_data(inputs, maps, classes, scores, config, trained)
        footer = figure_footer(run, inputs, name, trained)
        figures.save_figure(figures.gradcam(drawn), path, footer)
        rows = result_rows(inputs, trained.class_names, maps)
        log_images(terminal, rows, scores)
        result = GradcamResult(
            warnings=tuple(terminal.warnings),
            figures=(str(path),),
            method=config.method,
            layer=config.layer or trained.model.cam_layer,
            images=rows,
            faithfulness=scores,
            maps=write_maps(run.path / "maps.safetensors", inputs, maps) if config.save_maps else None,
            overlays=write_overlays(run, inputs, drawn) if config.save_overlays else None,
            evaluated=None if data is None else evaluated_images(data),
            checkpoint=trained.path,
        )
        log_run(terminal, run)
        overlays = [run.figure_path("overlay-*")] if result.overlays else []  # up to 2,000 files
        log_files(terminal, run, ["maps.safetensors"], [path, *overlays])
        write_result(run, terminal, result, start_time)


def _list_layers(trained: "TrainedModel", terminal: Terminal, start_time: float) -> None:
    """Print the layers that --layer takes; nothing is written."""
    import torch

    from scsuite.core.cam import cam_layer_shapes
    from scsuite.core.dataset import SIZE
    from scsuite.core.runs.results import CommandResult
    from scsuite.report import tables

    shapes = cam_layer_shapes(trained.model, torch.zeros(1, 3, SIZE, SIZE))
    terminal.print_table(tables.cam_layers(shapes, trained.model.cam_layer))
    layers = [{"name": name, "channels": c, "height": h, "width": w} for name, (c, h, w) in shapes.items()]
    result = CommandResult(command="gradcam", seconds=time.perf_counter() - start_time)
    values = {"layer": trained.model.cam_layer, "layers": layers, "checkpoint": trained.path}
    terminal.print_json({**result.to_dict(), **values})


def _map_names(config: GradcamConfig, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the maps: predicted, actual or both, or a class. Raises UsageError for another --class."""
    if config.class_ in ("predicted", "actual", "both"):
        if config.images and config.class_ == "actual":
            raise UsageError(
                "option", "--class", expected="predicted or a class name with --images", found="actual",
                hint="Your own images have no labels: use --class predicted or a class name.",
            )  # fmt: skip
        if config.images:
            return ("predicted",)
        return ("predicted", "actual") if config.class_ == "both" else (config.class_,)
    from scsuite.core.cam import class_map_name

    return (class_map_name(config.class_, class_names),)


def _load_images(config: GradcamConfig, trained: "TrainedModel", test: "Split | None") -> "CamInputs":
    from scsuite.core.cam import CamInputs, check_indices, select_images

    if test is None:
        return CamInputs.from_files(trained, config.images, config.fit or trained.data_config.fit)
    check_indices(config.indices, len(test))
    evaluation = trained.evaluate(test)
    return CamInputs.from_split(
        test, evaluation, select_images(evaluation, config.select, config.indices, config.count)
    )


def _compute_maps(
    inputs: "CamInputs", classes: dict[str, list[int]], config: GradcamConfig, trained: "TrainedModel"
) -> "tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, Any]]]":
    """Return by name the maps of these classes, maps_NHW, and how faithful they are."""
    from scsuite.core.augment import normalise
    from scsuite.core.cam import grad_cam, score_faithfulness

    images_NCHW = normalise(inputs.images_NHWC, trained.mean, trained.std)
    maps, scores = {}, {}
    for name, labels in classes.items():
        maps[name] = grad_cam(trained.model, images_NCHW, labels, method=config.method, layer=config.layer).numpy()
        score = score_faithfulness(
            trained.model, images_NCHW, labels, maps[name], image_ids=inputs.indices, masks_NHW=inputs.masks_NHW
        )
        scores[name] = asdict(score)
    return maps, scores
