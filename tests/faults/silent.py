"""What a default library gets quietly wrong, and scsuite must not: right values or a refusal, never a wrong number.

The right values are computed by hand, by numpy or by Pillow, never by the code that is looked at.
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
from tests.faults.box import TINY, Box, new_box, run
from tests.faults.case import Row

Probe = Callable[[Box], str]  # what is quietly wrong, if anything


def _is_refused(action: Callable[[], object], *words: str) -> str:
    try:
        action()
    except ScsuiteError as error:
        return "" if all(word in str(error) for word in words) else f"refused for something else: {error}"
    return "taken without a word"


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _read(box: Box, data: bytes) -> NDArray[np.uint8]:
    from scsuite.core.dataset.image_file import read_image_32

    (box.inputs / "a.png").write_bytes(data)
    return read_image_32(box.inputs / "a.png")


def _is_far(seen: NDArray[np.uint8], right: Any, tolerance: int) -> str:
    distance = int(np.abs(seen.astype(int) - np.asarray(right).astype(int)).max())
    return f"off by {distance}" if distance > tolerance else ""


# --- pictures: Pillow's conversions ---


def sixteen_bits(box: Box) -> str:
    """Pillow clips 16-bit grey at 255: a ramp becomes white."""
    ramp_HW = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    seen_HWC = _read(box, _png(Image.fromarray(ramp_HW)))
    return _is_far(seen_HWC, np.rint(ramp_HW / 257)[..., None].repeat(3, axis=2), 0)


def transparency(box: Box) -> str:
    """Pillow drops the alpha: what is fully transparent shows the colour beneath it."""
    alpha = 102  # of 255: 0.4
    halves = np.zeros((32, 32, 4), np.uint8)
    halves[..., 0], halves[16:, :, 3] = 255, alpha
    right_HWC = np.full((32, 32, 3), 255)
    right_HWC[16:, :, 1:] = round(255 * (1 - 0.4))
    return _is_far(_read(box, _png(Image.fromarray(halves))), right_HWC, 1)


def transparent_colour(box: Box) -> str:
    """A palette's transparent entry is transparent too."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return _is_far(_read(box, _png(image, transparency=1)), 255, 0)


def turned(box: Box) -> str:
    """Pillow leaves a picture as the camera held it."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # white on the right, as stored; 6 says: turn it clockwise, white goes to the bottom
    exif = Image.Exif()
    exif[0x0112] = 6
    right_HWC = np.zeros((32, 32, 3))
    right_HWC[16:] = 255
    return _is_far(_read(box, _png(Image.fromarray(pixels), exif=exif)), right_HWC, 0)


def cut_off(box: Box) -> str:
    """Pillow reads a PNG without its last 13 bytes."""
    data = _png(Image.new("RGB", (32, 32), "red"))[:-13]
    Image.open(io.BytesIO(data)).load()
    return _is_refused(lambda: _read(box, data), "broken")


def other_pictures(box: Box) -> str:
    """ImageFolder passes over a GIF without a word."""
    from scsuite.core.dataset import load_dataset

    for name in ("cat", "dog"):
        (box.inputs / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(box.inputs / "data" / name / f"{i}.png")
    Image.new("P", (32, 32)).save(box.inputs / "data" / "cat" / "x.gif")
    data = load_dataset(str(box.inputs / "data"), cache_dir=str(box.runs))
    notes = " ".join(data.notes)
    return "" if len(data.train) + len(data.test) == 6 and ".gif 1" in notes and "x.gif" in notes else notes


# --- figures: what is counted, and how often ---


class _ByRed(nn.Module):
    """Logits from the mean of the red channel alone: an answer that a person can compute."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        red_N = images_NCHW[:, 0].mean(dim=(1, 2)) * self.scale
        return torch.stack([-red_N, red_N], dim=1)


def every_image_once(_box: Box) -> str:
    """A sampler that pads its last batch counts images twice; a mean over batches weighs a small one too much."""
    from scsuite.core.dataset import Split
    from scsuite.core.loop import evaluate

    rng = np.random.default_rng(0)
    red_N, labels_N = rng.integers(0, 256, 1007), rng.integers(0, 2, 1007)
    images_NHWC = np.zeros((1007, 32, 32, 3), np.uint8)
    images_NHWC[..., 0] = red_N[:, None, None]
    split = Split(images_NHWC, labels_N, tuple(map(str, range(1007))))
    seen = evaluate(_ByRed(), split, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("low", "high"))
    logit_N = (red_N / 255 - 0.5) / 0.25
    right = float(((logit_N > 0) == labels_N).mean())
    loss = float(np.log1p(np.exp(-2 * logit_N * (2 * labels_N - 1))).mean())
    wrong = [f"{name} {a}, not {b}" for name, a, b in (("accuracy", seen.accuracy, right), ("loss", seen.loss, loss))
             if abs(a - b) > 1e-5]  # fmt: skip
    return "; ".join(wrong) or ("" if int(seen.confusion_KK.sum()) == 1007 else "not 1007 images in the matrix")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean_over_images(box: Box) -> str:
    """A mean over batches gives the 4 images of the last batch as much weight as the 16 of another."""
    run(box, *TINY, "--epochs", "2", "--lr-max", "0.1")
    steps, epochs = (_rows(box.run_dirs[0] / name) for name in ("steps.csv", "metrics.csv"))
    for number, epoch in enumerate(epochs):
        losses = [float(row["loss"]) for row in steps[7 * number : 7 * number + 7]]
        right = float(np.average(losses, weights=[16] * 6 + [4]))
        if abs(float(epoch["train_loss"]) - right) > 1e-5:
            return f"epoch {number + 1}: {epoch['train_loss']}, not {right}"
    return ""


def no_annihilation(box: Box) -> str:
    """OneCycleLR ends at a ten-thousandth of the lower rate, unless it is told."""
    run(box, *TINY, "--epochs", "4", "--peak-epoch", "1", "--lr-max", "0.1", "--lr-min", "0.02")
    seen = [float(row["lr"]) for row in _rows(box.run_dirs[0] / "steps.csv")]
    right = np.interp(np.arange(28), [0, 6, 27], [0.02, 0.1, 0.02])
    return "" if len(seen) == 28 and np.allclose(seen, right, atol=1e-9, rtol=0) else f"{seen}"


def fresh_augmentation(_box: Box) -> str:
    """albumentations seeds each worker alike, and each epoch as the one before: the same draws come again."""
    from scsuite.core.augment import default_policy
    from scsuite.core.dataset import Split
    from scsuite.core.training.loader import TrainLoader

    image_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    split = Split(image_HWC[None].repeat(64, axis=0), np.arange(64), tuple(map(str, range(64))))  # labels: which one
    drawn: list[set[bytes]] = []
    orders = []
    for workers in (0, 2):
        loader = TrainLoader(split, default_policy((0.5,) * 3, (0.25,) * 3), batch_size=8, seed=0, workers=workers)
        batches = [batch for epoch in (0, 1) for batch in loader.epoch(epoch)]
        by_image = [(int(y), x.numpy().tobytes()) for batch in batches for x, y in zip(*batch, strict=True)]
        orders.append([label for label, _ in by_image])
        drawn.append({data for _, data in by_image})
    if drawn[0] != drawn[1] or orders[0] != orders[1]:
        return "the number of workers changes what is drawn"
    # 81 crops, 2 flips and 625 holes: 128 draws hardly ever meet
    return f"{len(drawn[0])} different draws of 128" if len(drawn[0]) < 126 or orders[0][:64] == orders[0][64:] else ""


# --- files: what is taken on trust ---


def _policy(box: Box, text: str) -> str:
    (box.inputs / "p.yaml").write_text(
        f"transform:\n  __class_fullname__: Compose\n  transforms:\n  - __class_fullname__: Rotate\n{text}"
    )
    return str(box.inputs / "p.yaml")


def misspelt_argument(box: Box) -> str:
    """albumentations only warns of an argument that it does not know, and goes on with its default."""
    from scsuite.core.augment import validate_policy

    path = _policy(box, "    limt: [-5, 5]\n")
    return _is_refused(lambda: validate_policy(path), "limt")


def repeated_key(box: Box) -> str:
    """YAML's last one wins."""
    from scsuite.core.augment import validate_policy

    path = _policy(box, "    limit: [-5, 5]\n    limit: [-90, 90]\n")
    return _is_refused(lambda: validate_policy(path), "given twice", "limit")


def number_without_a_point(box: Box) -> str:
    """To YAML 1e-3 is a text, and `no` is false."""
    (box.inputs / "c.yaml").write_text("lr_min: 1e-3\nlr_max: 1e-1\n")
    run(box, "zigzag", "--config", box.inputs / "c.yaml")
    result = json.loads((box.run_dirs[0] / "result.json").read_text())
    return "" if (result["lr_min"], result["lr_max"]) == (0.001, 0.1) else f"{result['lr_min']}, {result['lr_max']}"


def _saved(box: Box, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A network's file, some of its tensors changed before it was written and sealed."""
    from scsuite.core.model.checkpoint import MODEL, network_metadata, save_checkpoint
    from scsuite.core.config import TrainConfig
    from scsuite.core.model import build_model

    model = build_model(2, 0.05)
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    change(tensors)
    facts = {
        "class_names": ["a", "b"], "network": network_metadata(model), "mean": [0.5] * 3, "std": [0.25] * 3,
        "precision": "fp32", "config": TrainConfig(lr_max=0.1, lr_min=0.01).to_dict(),
    }  # fmt: skip
    save_checkpoint(box.inputs / "a.safetensors", tensors, facts)
    return box.inputs / "a.safetensors"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cast_to(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        first = next(iter(tensors))
        tensors[first] = tensors[first].to(dtype)

    return change


def cast_weights(box: Box) -> str:
    """load_state_dict casts float64, int8 and complex weights to float32 without a word."""
    from scsuite.core.model.checkpoint import load_checkpoint

    load_checkpoint(_saved(box, lambda tensors: None))  # unchanged it is taken
    for dtype in (torch.float64, torch.int8, torch.float16):
        if problem := _is_refused(functools.partial(load_checkpoint, _saved(box, _cast_to(dtype))), _name(dtype)):
            return f"{dtype}: {problem}"
    return ""


def flipped_bit(box: Box) -> str:
    """safetensors has no checksum: a weight with another bit is a weight."""
    from scsuite.core.model.checkpoint import load_checkpoint

    path = _saved(box, lambda tensors: None)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    return _is_refused(lambda: load_checkpoint(path), "sha256")


def repeated_tensor(box: Box) -> str:
    """safetensors takes a header that names a tensor twice."""
    import hashlib

    from scsuite.core.model.checkpoint import load_checkpoint

    path = _saved(box, lambda tensors: None)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    data = struct.pack("<Q", len(text)) + text.encode() + data[8 + length :]
    at = data.index(b'\\"sha256\\": \\"') + 14
    blank = data[:at] + b"0" * 64 + data[at + 64 :]
    path.write_bytes(blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :])
    return _is_refused(lambda: load_checkpoint(path), "twice")


# --- training: what ends it ---


def _shapes() -> Any:
    from scsuite.core.dataset import load_dataset

    return load_dataset("shapes", limit_train=100, limit_test=50)


def endless_nan(_box: Box) -> str:
    """`loss > 5 * best` is never true of NaN: a range test goes on to its end, and may choose there."""
    from scsuite.core.config import LrRangeConfig
    from scsuite.core.lr_range.range_test import range_test

    config = LrRangeConfig(
        batch_size=16, width=0.05, workers=0, device="cpu", lr_start=1e-3, lr_end=1e30, steps=60, precision="fp32"
    )
    done: list[float] = []
    found = range_test(_shapes(), config, on_step=lambda step, _repeat: done.append(step.loss))
    if len(done) >= 60 or not np.isfinite(done).all():
        return f"{len(done)} steps, {np.isnan(done).sum()} of them NaN"
    rates = 1e-3 * 1e33 ** (np.arange(60) / 59)
    return "" if 1e-3 <= found.lr_min < found.lr_max <= rates[len(done) - 1] else f"{found.lr_min}, {found.lr_max}"


def batch_beyond_the_data(box: Box) -> str:
    """A DataLoader that drops the last batch has no batch at all: an epoch that trains nothing."""
    seen = run(box, *TINY, "--bs", "101", "--epochs", "1", "--lr-max", "0.1")
    return "" if seen.code == 3 and "--bs" in seen.err and "100 images" in seen.err else f"{seen.code}: {seen.err}"


PROBES: tuple[Probe, ...] = (
    sixteen_bits, transparency, transparent_colour, turned, cut_off, other_pictures, every_image_once, mean_over_images,
    no_annihilation, fresh_augmentation, misspelt_argument, repeated_key, number_without_a_point, cast_weights,
    flipped_bit, repeated_tensor, endless_nan, batch_beyond_the_data,
)  # fmt: skip


def rows(quick: bool) -> list[Row]:
    """One row: the probes that are not quietly wrong."""
    row = Row("silently wrong", f"0 of {len(PROBES)} probes")
    for probe in PROBES:
        with new_box() as box:
            try:
                row.count(probe.__name__, probe(box))
            except Exception as error:
                row.count(probe.__name__, f"{type(error).__name__}: {error}"[:300])
    row.facts["silently_wrong"] = row.total - row.passed
    return [row]
