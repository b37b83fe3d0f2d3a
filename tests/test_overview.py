"""The wide picture of the README is drawn from run directories, at the size that the README shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scsuite.core.runs.results import EPOCH_COLUMNS
from scsuite.report.figures import save_figure
from tests.overview import overview


def write_run(folder: Path, command: str, result: dict[str, Any], **files: str) -> Path:
    (folder / "figures").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"command": command, **result}))
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_the_picture_shows_bounds_accuracy_and_both_classes_of_the_closest_mistake(tmp_path: Path) -> None:
    lrs = np.geomspace(0.01, 10, 50)
    history = "\n".join(f"0,0,{i},{lr},{2.3 - 0.5 * np.sin(i / 16)},0.1" for i, lr in enumerate(lrs))
    lr_range = write_run(
        tmp_path / "lr", "lr-range", {"lr_min": 0.04, "lr_max": 0.4},
        history=f"repeat,seed,step,lr,loss,accuracy\n{history}\n",
    )  # fmt: skip
    epochs = [dict.fromkeys(EPOCH_COLUMNS, "1") | {"epoch": str(e), "step": str(2 * e)} for e in (1, 2)]
    train = write_run(
        tmp_path / "train", "train", {"final": {"test_accuracy": 0.9405}},
        metrics="\n".join([",".join(EPOCH_COLUMNS), *(",".join(row.values()) for row in epochs)]) + "\n",
        steps="step,lr,momentum,loss\n0,0.04,0.9,2\n1,0.4,0.9,2\n2,0.2,0.9,1\n3,0.04,0.9,1\n",
    )  # fmt: skip
    images = [
        {"index": 3, "actual": "cat", "predicted": "dog", "p_actual": 0.1},
        {"index": 14, "actual": "ring", "predicted": "circle", "p_actual": 0.3},
    ]
    overlays = [f"overlay-{row['index']}-{name}.png" for row in images for name in ("predicted", "actual")]
    paths = [f"/elsewhere/{name}" for name in overlays]
    gradcam = write_run(tmp_path / "gradcam", "gradcam", {"images": images, "overlays": paths})
    for name in overlays:
        Image.new("RGB", (64, 64), "orange").save(gradcam / "figures" / name)
    figure = overview(lr_range, train, gradcam)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:4] == [
        "1  Range test: 0.04 to 0.4", "2  One cycle", "3  Training: test 94.05 %", "4  Grad-CAM of a mistake",
    ]  # fmt: skip
    assert [axes.get_xlabel() for axes in figure.axes[3:]] == ["predicted: circle", "actual: ring"]
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as page:
        assert page.size == (1800, 420)
