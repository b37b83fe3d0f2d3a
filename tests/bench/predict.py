"""The speed of predict against a plain Pillow loop, on files of its own: 10,000 PNGs of 32 x 32, 200 photographs.

In: the width of a network. Out: images per second, and ratios within this run. The plain loop opens, converts to RGB
and resizes; it computes no network. So predict is compared with a linear layer as its network, and does all the rest:
reading, checking, decoding, resizing, normalising. On a CPU, a network takes longer than the decoding of a small PNG.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from scsuite.core.dataset import SIZE, shapes
from scsuite.core.evaluation.predict import Classifier
from scsuite.core.model.network import build_model
from tests.bench.timing import alternating

NUM_PNGS, NUM_PHOTOS = 10_000, 200
PHOTO_SIZE = (4000, 3000)  # pixels: 12 megapixels
NUM_DIFFERENT_PHOTOS = 4  # each is written many times


def predict(width: float) -> dict[str, Any]:
    """Ratios for both kinds of files without a network's time, and images per second of two networks."""
    decoding = _classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, len(shapes.CLASS_NAMES))))
    with tempfile.TemporaryDirectory() as folder:
        pngs, photos = _write_pngs(Path(folder, "pngs")), _write_photos(Path(folder, "photos"))
        plain, ours = alternating(lambda: _plain(pngs), lambda: decoding.predict(pngs[0].parent), 5)
        plain_photos, our_photos = alternating(lambda: _plain(photos), lambda: decoding.predict(photos[0].parent), 1)
        networks = {value: _classifier(build_model(len(shapes.CLASS_NAMES), value, seed=0)) for value in (0.125, width)}
        seconds = {
            value: _seconds(partial(classifier.predict, pngs[0].parent)) for value, classifier in networks.items()
        }
    return {
        "pngs_per_s": NUM_PNGS / ours,
        "pngs_ratio_to_pillow": plain / ours,
        "photos_per_s": NUM_PHOTOS / our_photos,
        "photos_ratio_to_pillow": plain_photos / our_photos,
        "target_ratio_at_least": 0.8,
        "device": str(decoding.mean_1C11.device),
        **{f"pngs_per_s_width_{value:g}": NUM_PNGS / taken for value, taken in seconds.items()},
    }


def _classifier(network: nn.Module) -> Classifier:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Classifier(network, (0.5,) * 3, (0.25,) * 3, shapes.CLASS_NAMES).eval().to(device)


def _plain(paths: list[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((SIZE, SIZE)))


def _write_pngs(folder: Path) -> list[Path]:
    folder.mkdir()
    images_NHWC = shapes.generate(NUM_PNGS, seed=1)[0]
    paths = [folder / f"{number:05d}.png" for number in range(NUM_PNGS)]
    for path, image_HWC in zip(paths, images_NHWC, strict=True):
        Image.fromarray(image_HWC).save(path)
    return paths


def _write_photos(folder: Path) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    data = []
    for number in range(NUM_DIFFERENT_PHOTOS):
        # Coarse noise, enlarged, and fine noise on it: about 3 MB each, as of a telephone.
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize(PHOTO_SIZE)
        fine_HWC = rng.integers(-6, 7, (PHOTO_SIZE[1], PHOTO_SIZE[0], 1), dtype=np.int16)
        pixels_HWC = np.clip(np.asarray(coarse, dtype=np.int16) + fine_HWC, 0, 255).astype(np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(pixels_HWC).save(path, quality=90)
        data.append(path.read_bytes())
        path.unlink()
    paths = [folder / f"{number:03d}.jpg" for number in range(NUM_PHOTOS)]
    for number, path in enumerate(paths):
        path.write_bytes(data[number % NUM_DIFFERENT_PHOTOS])
    return paths


def _seconds(function: Callable[[], object]) -> float:
    start_time = time.perf_counter()
    function()
    return time.perf_counter() - start_time
