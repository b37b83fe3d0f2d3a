"""What `scsuite gradcam` shows and writes: the data of its figure, rows for the result, maps and overlays as files.

In: the explained images, their maps and scores. Out: plain values, files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite.cli.console import Terminal
from scsuite.cli.run_output import relative_path
from scsuite.core.config import GradcamConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scsuite.core.cam import CamInputs
    from scsuite.core.evaluation.evaluate import TrainedModel
    from scsuite.core.runs.rundir import RunDir
    from scsuite.report.figures import CamFigureData

    Maps = Mapping[str, NDArray[np.float32]]  # name -> maps_NHW

MAX_DISPLAY_SIDE = 512  # pixels; the longer side of a user's own image in the figure


def figure_data(
    inputs: "CamInputs", maps: "Maps", classes: Mapping[str, list[int]], scores: Mapping[str, Mapping[str, Any]],
    config: GradcamConfig, trained: "TrainedModel",
) -> "CamFigureData":  # fmt: skip
    """Return what the figure shows: a user's own images at their own size, test images at 32 x 32."""
    from scsuite.report.figures import CamFigureData
    from scsuite.report.formatting import cam_selection, cam_title, faithfulness_notes, seen_region_note

    captions = []
    for i, probabilities_K in enumerate(inputs.probabilities_NK):
        caption = {"image": Path(inputs.files[i]).name if config.images else inputs.files[i]}
        for name, labels in classes.items():
            class_name = trained.class_names[labels[i]]
            prefix = "" if name in (class_name, f"name:{class_name}") else f"{name} "
            caption[name] = f"{prefix}{class_name} {probabilities_K[labels[i]]:.2f}"
        captions.append(caption)
    images = "your images"
    if inputs.evaluation is not None:
        num_wrong, num_images = len(inputs.evaluation.misclassified), inputs.evaluation.num_images
        total = {"misclassified": num_wrong, "correct": num_images - num_wrong}.get(config.select, num_images)
        images = cam_selection(config.select, len(captions), total)
    return CamFigureData(
        **(_display_images(inputs, maps) if config.images else {"images": inputs.images_NHWC, "maps": maps}),
        captions=captions,
        title=cam_title(config.method, config.layer or trained.model.cam_layer, images),
        difference=config.difference,
        notes=[*([seen_region_note(inputs.fit)] if config.images else []), *faithfulness_notes(scores)],
    )


def figure_footer(run: "RunDir", inputs: "CamInputs", data: str, trained: "TrainedModel") -> str:
    """Return what is written below the figure."""
    from scsuite.report.formatting import footer

    accuracy = None if inputs.evaluation is None else inputs.evaluation.accuracy
    return footer(run.path, data=data, seed=trained.seed, accuracy=accuracy)


def _display_images(inputs: "CamInputs", maps: "Maps") -> dict[str, Any]:
    """Return the user's images with no side longer than MAX_DISPLAY_SIDE, and the maps at the size of the images."""
    import torch

    from scsuite.core.cam import paste_map
    from scsuite.core.dataset.image_file import read_image_resized, seen_region

    images = [read_image_resized(path, MAX_DISPLAY_SIDE) for path in inputs.files]
    pasted = {
        name: [
            paste_map(torch.from_numpy(map_HW), image.shape[0], image.shape[1], inputs.fit).numpy()
            for map_HW, image in zip(maps_NHW, images, strict=True)
        ]
        for name, maps_NHW in maps.items()
    }
    regions = [seen_region(image.shape[1], image.shape[0], inputs.fit) for image in images]
    return {"images": images, "maps": pasted, "regions": regions}


def result_rows(inputs: "CamInputs", class_names: tuple[str, ...], maps: "Maps") -> list[dict[str, Any]]:
    """Return a row per image for result.json; `no_evidence` names its maps without positive evidence."""
    rows = []
    for i, predicted in enumerate(inputs.predicted):
        actual = inputs.actual[i] if inputs.actual else None
        rows.append(
            {
                "index": inputs.indices[i],
                "file": inputs.files[i],
                "actual": None if actual is None else class_names[actual],
                "predicted": class_names[predicted],
                "p_actual": None if actual is None else float(inputs.probabilities_NK[i, actual]),
                "p_predicted": float(inputs.probabilities_NK[i, predicted]),
                "no_evidence": [name for name, maps_NHW in maps.items() if maps_NHW[i].max() <= 0],
            }
        )
    return rows


def log_images(terminal: Terminal, rows: list[dict[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the images and how faithful their maps are."""
    from scsuite.report import tables

    if not rows:
        terminal.log_line("gradcam   no image fits the selection")
        return
    terminal.log_table(tables.gradcam_images([{**row, "file": relative_path(row["file"])} for row in rows]))
    terminal.log_table(tables.faithfulness(scores))


def write_maps(path: Path, inputs: "CamInputs", maps: "Maps") -> str:
    """Write the values of the maps, N x 32 x 32 for each name, and the index of each image."""
    import numpy as np
    from safetensors.numpy import save

    from scsuite.core.files import write_atomic

    write_atomic(path, save({**maps, "index": np.array(inputs.indices, np.int64)}))
    return str(path)


def write_overlays(run: "RunDir", inputs: "CamInputs", data: "CamFigureData") -> list[str]:
    """Write each map over its image as a file; the maps of an image share one scale."""
    from scsuite.core.runs.rundir import slugify
    from scsuite.report import figures

    paths = []
    for i, image in enumerate(data.images):
        max_value = max(float(heatmaps[i].max()) for heatmaps in data.maps.values())
        for name, heatmaps in data.maps.items():
            path = run.figure_path(f"overlay-{inputs.indices[i]}-{slugify(name)}")
            figures.save_figure(figures.overlay(image, heatmaps[i], max_value), path)
            paths.append(str(path))
    return paths
