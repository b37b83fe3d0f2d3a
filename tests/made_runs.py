"""Run directories made by hand, for tests that read them: no training, no weights.

In: what the run is to say. Out: the path of a directory with the files that scsuite writes. Numbers are simple ones.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from scsuite.core.config import EvaluateConfig, GradcamConfig, LrRangeConfig, TrainConfig

FINGERPRINT = "f" * 64
NUM_TEST = 1000
STEPS_PER_EPOCH = 2
CLASSES = ("cat", "dog")
METRICS = "epoch,step,lr,momentum,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second,seconds"


def write_run(path: Path, config: Mapping[str, Any], environment: Mapping[str, Any], result: Mapping[str, Any]) -> Path:
    """Write the three files that every run has; no result.json if `result` is empty."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    (path / "environment.json").write_bytes(encode(environment))
    if result:
        (path / "result.json").write_bytes(encode(result))
    return path


def encode(values: Mapping[str, Any]) -> bytes:
    """JSON as run directories have it: bytes of a name that are not UTF-8 as escapes."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace")


def data_values(class_names: Sequence[str] | None = CLASSES) -> dict[str, Any]:
    """What environment.json says about the data; older runs do not name the classes."""
    values: dict[str, Any] = {"name": "pets", "fingerprint": FINGERPRINT, "train_images": 4000, "test_images": NUM_TEST}
    return values if class_names is None else {**values, "class_names": list(class_names)}


def make_training(
    path: Path, accuracies: Sequence[float] = (0.5, 0.9), *, complete: bool = True,
    started: str = "2026-01-01T00:00:00", class_names: Sequence[str] | None = CLASSES, **config: Any,
) -> Path:  # fmt: skip
    """A training whose epochs have these test accuracies, with LRMIN 0.04 and LRMAX 0.4 unless `config` says else."""
    settings = TrainConfig(**{"lr_min": 0.04, "lr_max": 0.4, "epochs": 2, "data": "pets", **config}).to_dict()
    num_steps = settings["epochs"] * STEPS_PER_EPOCH
    cycle = {"lr_min": 0.04, "lr_max": 0.4, "peak_step": 0, "num_steps": num_steps, "steps_per_epoch": STEPS_PER_EPOCH,
             "momentum_max": 0.9, "momentum_min": 0.9}  # fmt: skip
    environment = {
        "versions": {"scsuite": "0.1.0", "torch": "2.0"}, "started": started, "data": data_values(class_names),
        "one_cycle": cycle, "device": "cpu", "precision": "fp32", "command_line": ["scsuite", "train"],
    }  # fmt: skip
    result = {
        "command": "train", "status": "ok", "run_dir": f"/elsewhere/{path.name}", "seconds": 60.0, "warnings": [],
        "images_per_second": 1000.0, "seed": settings["seed"],
        "final": {"test_accuracy": accuracies[-1], "test_loss": 0.3, "train_loss": 0.7, "train_accuracy": 0.8,
                  "test_accuracy_no_ema": None, "test_loss_no_ema": None},
        "best": {"epoch": 1, "test_accuracy": max(accuracies), "selected_on": "test"},
        "checkpoint": f"/elsewhere/{path.name}/model.safetensors",
    } if complete else {}  # fmt: skip
    write_run(path, settings, environment, result)
    rows = [f"{n},{n * STEPS_PER_EPOCH},0.04,0.9,0.7,0.8,0.3,{a},1000,30" for n, a in enumerate(accuracies, 1)]
    (path / "metrics.csv").write_text("\n".join([METRICS, *rows]) + "\n")
    steps = [f"{step},0.1,0.9,1.5" for step in range(len(accuracies) * STEPS_PER_EPOCH)]
    (path / "steps.csv").write_text("\n".join(["step,lr,momentum,loss", *steps]) + "\n")
    write_png(path / "figures" / "training.png", 300, 200)
    return path


def make_evaluation(
    path: Path, training: str, *, class_names: Sequence[str] = CLASSES, started: str = "2026-01-02T00:00:00",
    fingerprint: str = FINGERPRINT, num_images: int = NUM_TEST, accuracy: float = 0.9,
) -> Path:  # fmt: skip
    """An evaluation of the weights of a training, by the name of its directory."""
    num_classes = len(class_names)
    rows = [{"name": name, "precision": 0.9, "recall": 0.9, "recall_ci95": [0.8, 0.95], "f1": 0.9, "support": 10}
            for name in class_names]  # fmt: skip
    matrix = [
        [9 if i == j else int(j == (i + 1) % num_classes) for j in range(num_classes)] for i in range(num_classes)
    ]
    result = {
        "command": "evaluate", "accuracy": accuracy, "accuracy_ci95": [accuracy - 0.01, accuracy + 0.01],
        "top5_accuracy": None, "loss": 0.3, "ece": 0.1, "macro": {"precision": 0.9, "recall": 0.9, "f1": 0.9},
        "num_images": num_images, "per_class": rows, "confusion_matrix": matrix,
        "confusion_normalized": [[count / 10 for count in row] for row in matrix],
        "most_confused": [{"actual": class_names[0], "predicted": class_names[1], "count": 1, "fraction": 0.1}],
        "num_misclassified": 100, "misclassified": [], "tta": None, "data": "pets",
        "checkpoint": f"/elsewhere/{training}/model.safetensors",
    }  # fmt: skip
    data = {**data_values(), "fingerprint": fingerprint, "test_images": num_images}
    config = EvaluateConfig(ckpt=training).to_dict()
    return write_run(path, config, {"started": started, "data": data}, result)


def make_gradcam(path: Path, training: str, image: Mapping[str, Any] | None = None, **config: Any) -> Path:
    """Maps of one image, with a figure, of the weights of a training."""
    row = {"index": 7, "file": "test/dog/7.png", "actual": "dog", "predicted": "cat", "p_actual": 0.2,
           "p_predicted": 0.8, "no_evidence": [], **(image or {})}  # fmt: skip
    result = {"command": "gradcam", "method": "hirescam", "layer": "layer2", "images": [row], "faithfulness": {},
              "checkpoint": f"/elsewhere/{training}/model.safetensors"}  # fmt: skip
    settings = GradcamConfig(ckpt=training, **config).to_dict()
    write_run(path, settings, {"started": "2026-01-03T00:00:00"}, result)
    write_png(path / "figures" / "gradcam.png", 600, 300)
    return path


def make_lr_range(path: Path, lr_min: float = 0.04, lr_max: float = 0.4, fingerprint: str = FINGERPRINT) -> Path:
    """A range test that found these LR bounds."""
    result = {"command": "lr-range", "lr_min": lr_min, "lr_max": lr_max, "reason": "The loss falls fastest there.",
              "suggestions": {"steepest": 0.3}, "conditions": {"data": fingerprint}}  # fmt: skip
    write_run(path, LrRangeConfig(data="pets").to_dict(), {"started": "2025-12-31T00:00:00"}, result)
    write_png(path / "figures" / "lr-range.png", 300, 200)
    return path


def write_png(path: Path, width: int, height: int) -> None:
    """Write a gray image."""
    content = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
