"""The speed of predict against a plain Pillow loop, on files of its own: 10,000 PNGs of 32 x 32, 200 photographs.

In: the network's width. Out: images per second, and ratios within this run. The plain loop opens, converts to RGB and
resizes; it computes no network. predict does the same with its checks, and the network, here of width 1/8.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scsuite.core.config import FITS
from scsuite.core.dataset import SIZE, shapes
from scsuite.core.evaluation.predict import Classifier
from scsuite.core.model.network import build_model
from tests.bench.timing import alternating

NUM_PNGS, NUM_PHOTOS = 3_000, 20
PHOTO_SIZE = (4000, 3000)  # pixels: 12 megapixels
NUM_DIFFERENT_PHOTOS = 4  # each is written many times
WIDTH = 0.125


def predict(width: float) -> dict[str, Any]:
    """Ratios for both kinds of files with a small network, and the PNGs' with the network of the given width."""
    small, full = (_classifier(value) for value in (WIDTH, width))
    with tempfile.TemporaryDirectory() as folder:
        pngs, photos = _write_pngs(Path(folder, "pngs")), _write_photos(Path(folder, "photos"))
        plain, ours = alternating(lambda: _plain(pngs), lambda: small.predict(pngs), 5)
        plain_photos, our_photos = alternating(lambda: _plain(photos), lambda: small.predict(photos), 1)
        network_seconds = _seconds(lambda: full.predict(pngs))
    return {
        "pngs_per_s": NUM_PNGS / ours,
        "pngs_ratio_to_pillow": plain / ours,
        "photos_per_s": NUM_PHOTOS / our_photos,
        "photos_ratio_to_pillow": plain_photos / our_photos,
        "target_ratio_at_least": 0.8,
        "device": str(small.mean_1C11.device),
        f"pngs_per_s_width_{width:g}": NUM_PNGS / network_seconds,
    }


def _classifier(width: float) -> Classifier:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_model(len(shapes.CLASS_NAMES), width, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(network, (0.5,) * 3, (0.25,) * 3, shapes.CLASS_NAMES, FITS[0]).eval().to(device)


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
