"""What libraries get wrong without an error: scsuite must give the right value or refuse, never a wrong number.

In: an empty sandbox per probe. Out: one row. Expected values are computed by hand, by numpy or by Pillow, never by the
code under test.
"""

import csv
import functools
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from scsuite.core.errors import ScsuiteError
from tests.faults.case import ScoreRow
from tests.faults.sandbox import Sandbox, new_sandbox, run
from tests.tiny_args import FAULT_ARGS, FAULT_TRAIN_ARGS, STEPS_PER_EPOCH

Probe = Callable[[Sandbox], str]  # what is silently wrong, if anything


def _check_refusal(action: Callable[[], object], *words: str) -> str:
    try:
        action()
    except ScsuiteError as error:
        return "" if all(word in str(error) for word in words) else f"refused for another reason: {error}"
    return "accepted"


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _read(sandbox: Sandbox, data: bytes) -> NDArray[np.uint8]:
    from scsuite.core.dataset.image_file import read_image_32

    (sandbox.inputs / "a.png").write_bytes(data)
    return read_image_32(sandbox.inputs / "a.png")


def _check_pixels(actual: NDArray[np.uint8], expected: Any, tolerance: int) -> str:
    distance = int(np.abs(actual.astype(int) - np.asarray(expected).astype(int)).max())
    return f"off by {distance}" if distance > tolerance else ""


# --- images: Pillow's conversions ---


def sixteen_bits(sandbox: Sandbox) -> str:
    """Pillow clips 16-bit gray at 255: a ramp becomes white."""
    ramp_HW = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    actual_HWC = _read(sandbox, _png(Image.fromarray(ramp_HW)))
    return _check_pixels(actual_HWC, np.rint(ramp_HW / 257)[..., None].repeat(3, axis=2), 0)


def transparency(sandbox: Sandbox) -> str:
    """Pillow drops alpha: a fully transparent pixel shows its hidden color."""
    alpha = 102  # of 255: 0.4
    halves = np.zeros((32, 32, 4), np.uint8)
    halves[..., 0], halves[16:, :, 3] = 255, alpha
    expected_HWC = np.full((32, 32, 3), 255)
    expected_HWC[16:, :, 1:] = round(255 * (1 - 0.4))
    return _check_pixels(_read(sandbox, _png(Image.fromarray(halves))), expected_HWC, 1)


def transparent_palette_color(sandbox: Sandbox) -> str:
    """A palette can have a transparent color too."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return _check_pixels(_read(sandbox, _png(image, transparency=1)), 255, 0)


def exif_rotation(sandbox: Sandbox) -> str:
    """Pillow ignores the EXIF orientation."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # white on the right, as stored; 6: rotate clockwise, so white moves to the bottom
    exif = Image.Exif()
    exif[0x0112] = 6
    expected_HWC = np.zeros((32, 32, 3))
    expected_HWC[16:] = 255
    return _check_pixels(_read(sandbox, _png(Image.fromarray(pixels), exif=exif)), expected_HWC, 0)


def truncated_png(sandbox: Sandbox) -> str:
    """Pillow reads a PNG without its last 13 bytes."""
    data = _png(Image.new("RGB", (32, 32), "red"))[:-13]
    Image.open(io.BytesIO(data)).load()
    return _check_refusal(lambda: _read(sandbox, data), "truncated")


def unsupported_images(sandbox: Sandbox) -> str:
    """ImageFolder skips a TGA without a message."""
    from scsuite.core.dataset import load_dataset

    for name in ("cat", "dog"):
        (sandbox.inputs / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(sandbox.inputs / "data" / name / f"{i}.png")
    Image.new("RGB", (32, 32)).save(sandbox.inputs / "data" / "cat" / "x.tga")
    data = load_dataset(str(sandbox.inputs / "data"), cache_dir=str(sandbox.runs))
    notes = " ".join(data.notes)
    return "" if len(data.train) + len(data.test) == 6 and ".tga 1" in notes and "x.tga" in notes else notes


# --- metrics: what is counted, and how often ---


class _RedClassifier(nn.Module):
    """Logits from the mean of the red channel alone: predictions that can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        red_N = images_NCHW[:, 0].mean(dim=(1, 2)) * self.scale
        return torch.stack([-red_N, red_N], dim=1)


def every_image_once(_sandbox: Sandbox) -> str:
    """A padded last batch counts images twice; a mean over batches gives a small batch too much weight."""
    from scsuite.core.dataset import Split
    from scsuite.core.evaluation.evaluate import evaluate

    rng = np.random.default_rng(0)
    red_N, labels_N = rng.integers(0, 256, 1007), rng.integers(0, 2, 1007)
    images_NHWC = np.zeros((1007, 32, 32, 3), np.uint8)
    images_NHWC[..., 0] = red_N[:, None, None]
    split = Split(images_NHWC, labels_N, tuple(map(str, range(1007))))
    evaluation = evaluate(_RedClassifier(), split, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("low", "high"))
    logit_N = (red_N / 255 - 0.5) / 0.25
    accuracy = float(((logit_N > 0) == labels_N).mean())
    loss = float(np.log1p(np.exp(-2 * logit_N * (2 * labels_N - 1))).mean())
    compared = (("accuracy", evaluation.accuracy, accuracy), ("loss", evaluation.loss, loss))
    problems = [
        f"{name} {actual}, not {expected}" for name, actual, expected in compared if abs(actual - expected) > 1e-5
    ]
    return "; ".join(problems) or (
        "" if int(evaluation.confusion_KK.sum()) == 1007 else "not 1007 images in the matrix"
    )


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean_over_images(sandbox: Sandbox) -> str:
    """A mean over batches gives the 4 images of the last batch as much weight as 16 of another."""
    run(sandbox, *FAULT_ARGS, "--epochs", "2", "--lr-max", "0.1")
    steps, epochs = (_read_rows(sandbox.run_dirs[0] / name) for name in ("steps.csv", "metrics.csv"))
    for number, epoch in enumerate(epochs):
        losses = [float(row["loss"]) for row in steps[STEPS_PER_EPOCH * number : STEPS_PER_EPOCH * (number + 1)]]
        expected = float(np.average(losses, weights=[16] * 6 + [4]))
        if abs(float(epoch["train_loss"]) - expected) > 1e-5:
            return f"epoch {number + 1}: {epoch['train_loss']}, not {expected}"
    return ""


def no_annihilation(sandbox: Sandbox) -> str:
    """OneCycleLR by default ends at a ten-thousandth of the lower LR."""
    run(sandbox, *FAULT_ARGS, "--epochs", "4", "--peak-epoch", "1", "--lr-max", "0.1", "--lr-min", "0.02")
    actual = [float(row["lr"]) for row in _read_rows(sandbox.run_dirs[0] / "steps.csv")]
    expected = np.interp(np.arange(28), [0, 6, 27], [0.02, 0.1, 0.02])
    return "" if len(actual) == 28 and np.allclose(actual, expected, atol=1e-9, rtol=0) else f"{actual}"


def fresh_augmentation(_sandbox: Sandbox) -> str:
    """albumentations seeds every worker and every epoch the same way: the same augmentations repeat."""
    from scsuite.core.augment import default_policy
    from scsuite.core.dataset import Split
    from scsuite.core.training.loader import TrainLoader

    image_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    split = Split(image_HWC[None].repeat(64, axis=0), np.arange(64), tuple(map(str, range(64))))  # label: the index
    augmented: list[set[bytes]] = []
    orders = []
    for workers in (0, 2):
        loader = TrainLoader(split, default_policy((0.5,) * 3, (0.25,) * 3), batch_size=8, seed=0, workers=workers)
        batches = [batch for epoch in (0, 1) for batch in loader.epoch(epoch)]
        by_image = [(int(y), x.numpy().tobytes()) for batch in batches for x, y in zip(*batch, strict=True)]
        orders.append([label for label, _ in by_image])
        augmented.append({data for _, data in by_image})
    if augmented[0] != augmented[1] or orders[0] != orders[1]:
        return "the number of workers changes the augmentations"
    if orders[0][:64] == orders[0][64:]:
        return "two epochs have the same order"
    # 81 crops, 2 flips and 625 holes: 128 augmentations are hardly ever equal
    return f"{len(augmented[0])} different augmentations of 128" if len(augmented[0]) < 126 else ""


# --- files ---


def _policy(sandbox: Sandbox, text: str) -> str:
    (sandbox.inputs / "p.yaml").write_text(
        f"transform:\n  __class_fullname__: Compose\n  transforms:\n  - __class_fullname__: Rotate\n{text}"
    )
    return str(sandbox.inputs / "p.yaml")


def misspelt_argument(sandbox: Sandbox) -> str:
    """albumentations only warns of an unknown argument, and continues with its default."""
    from scsuite.core.augment import validate_policy

    path = _policy(sandbox, "    limt: [-5, 5]\n")
    return _check_refusal(lambda: validate_policy(path), "limt")


def repeated_key(sandbox: Sandbox) -> str:
    """In YAML the last of two equal keys wins."""
    from scsuite.core.augment import validate_policy

    path = _policy(sandbox, "    limit: [-5, 5]\n    limit: [-90, 90]\n")
    return _check_refusal(lambda: validate_policy(path), "given twice", "limit")


def number_without_a_point(sandbox: Sandbox) -> str:
    """In YAML 1e-3 is a string, and `no` is false."""
    (sandbox.inputs / "c.yaml").write_text("lr_min: 1e-3\nlr_max: 1e-1\n")
    run(sandbox, "zigzag", "--config", sandbox.inputs / "c.yaml")
    result = json.loads((sandbox.run_dirs[0] / "result.json").read_text())
    return "" if (result["lr_min"], result["lr_max"]) == (0.001, 0.1) else f"{result['lr_min']}, {result['lr_max']}"


def _save_checkpoint(sandbox: Sandbox, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A checkpoint some of whose tensors were changed before it was written."""
    from scsuite.core.config import TrainConfig
    from scsuite.core.model.checkpoint import MODEL_PREFIX, network_metadata, save_checkpoint
    from scsuite.core.model.network import build_model

    model = build_model(2, 0.05)
    tensors = {MODEL_PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    change(tensors)
    metadata = {
        "class_names": ["a", "b"], "network": network_metadata(model), "mean": [0.5] * 3, "std": [0.25] * 3,
        "precision": "fp32", "config": TrainConfig(lr_max=0.1, lr_min=0.01).to_dict(),
    }  # fmt: skip
    save_checkpoint(sandbox.inputs / "a.safetensors", tensors, metadata)
    return sandbox.inputs / "a.safetensors"


def _cast_to(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        first = next(iter(tensors))
        tensors[first] = tensors[first].to(dtype)

    return change


def _load_network(path: Path) -> None:
    from scsuite.core.model.checkpoint import load_network, read_checkpoint

    load_network(read_checkpoint(path))


def cast_weights(sandbox: Sandbox) -> str:
    """load_state_dict casts float64, int8 and complex weights to float32 without a message."""
    _load_network(_save_checkpoint(sandbox, lambda tensors: None))  # unchanged, it is accepted
    for dtype in (torch.float64, torch.int8, torch.float16):
        if problem := _check_refusal(
            functools.partial(_load_network, _save_checkpoint(sandbox, _cast_to(dtype))),
            str(dtype).removeprefix("torch."),
        ):
            return f"{dtype}: {problem}"
    return ""


def flipped_bit(sandbox: Sandbox) -> str:
    """safetensors has no checksum: a flipped bit is another weight."""
    path = _save_checkpoint(sandbox, lambda tensors: None)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    return _check_refusal(lambda: _load_network(path), "sha256")


def repeated_tensor(sandbox: Sandbox) -> str:
    """safetensors accepts a header that names a tensor twice."""
    import hashlib

    path = _save_checkpoint(sandbox, lambda tensors: None)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    data = struct.pack("<Q", len(text)) + text.encode() + data[8 + length :]
    at = data.index(b'\\"sha256\\": \\"') + 14
    blank = data[:at] + b"0" * 64 + data[at + 64 :]
    path.write_bytes(blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :])
    return _check_refusal(lambda: _load_network(path), "twice")


# --- training: what stops it ---


def _load_shapes() -> Any:
    from scsuite.core.dataset import load_dataset

    return load_dataset("shapes", limit_train=100, limit_test=50)


def endless_nan(_sandbox: Sandbox) -> str:
    """`loss > 5 * best` is never true for NaN: a range test would continue to its end, and might choose there."""
    from scsuite.core.config import LrRangeConfig
    from scsuite.core.lr_range.range_test import range_test

    config = LrRangeConfig(
        batch_size=16, width=0.05, workers=0, device="cpu", lr_start=1e-3, lr_end=1e30, steps=60, precision="fp32"
    )
    losses: list[float] = []
    result = range_test(_load_shapes(), config, on_step=lambda step, _repeat: losses.append(step.loss))
    if len(losses) >= 60 or not np.isfinite(losses).all():
        return f"{len(losses)} steps, {np.isnan(losses).sum()} of them NaN"
    lrs = 1e-3 * 1e33 ** (np.arange(60) / 59)
    is_valid = 1e-3 <= result.lr_min < result.lr_max <= lrs[len(losses) - 1]
    return "" if is_valid else f"{result.lr_min}, {result.lr_max}"


def batch_larger_than_data(sandbox: Sandbox) -> str:
    """A DataLoader that drops the last batch has no batch at all: an epoch without training."""
    outcome = run(sandbox, *FAULT_TRAIN_ARGS, "--bs", "101")
    return (
        ""
        if outcome.code == 3 and "--bs" in outcome.err and "100 images" in outcome.err
        else f"{outcome.code}: {outcome.err}"
    )


PROBES: tuple[Probe, ...] = (
    sixteen_bits,
    transparency,
    transparent_palette_color,
    exif_rotation,
    truncated_png,
    unsupported_images,
    every_image_once,
    mean_over_images,
    no_annihilation,
    fresh_augmentation,
    misspelt_argument,
    repeated_key,
    number_without_a_point,
    cast_weights,
    flipped_bit,
    repeated_tensor,
    endless_nan,
    batch_larger_than_data,
)


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the probes without a silent error."""
    row = ScoreRow("silently wrong", f"0 of {len(PROBES)} probes")
    for probe in PROBES:
        with new_sandbox() as sandbox:
            try:
                row.count(probe.__name__, probe(sandbox))
            except Exception as error:
                row.count(probe.__name__, f"{type(error).__name__}: {error}"[:300])
    row.measured["silently_wrong"] = row.total - row.passed
    return [row]
