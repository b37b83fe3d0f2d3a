"""M: input made to cost minutes or gigabytes: images and policies, in folders and small archives; pipes for files.

In: images of millions of empty parts, policies whose numbers are all allowed, and every option that takes a path. Out:
three rows. Each is accepted or refused within 5 seconds of processor time and 300 MB, in one line.
"""

import functools
import io
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence

import yaml
from PIL import Image

from tests.core.dataset.test_image_structure import EXIF_BOMB, GIF_START, chunk, segment, tiff_of_strips
from tests.core.dataset.test_image_structure import GIF as SMALL_GIF
from tests.core.dataset.test_image_structure import JPEG as SMALL_JPEG
from tests.core.dataset.test_image_structure import PNG as SMALL_PNG
from tests.core.dataset.test_image_structure import SCAN as JPEG_SCAN
from tests.faults.builders import classes, encoded, train_on, write_tree
from tests.faults.case import BoundedCase, ScoreRow, run_bounded
from tests.faults.policies import node
from tests.faults.sandbox import Sandbox

MB = 2**20
FEW = ("--limit-train", 20, "--limit-test", 10)
Prepare = Callable[[Sandbox], Sequence[object]]


# --- images ---


def _between(data: bytes, position: int, more: bytes) -> bytes:
    return data[:position] + more + data[position:]


def _profile(content: bytes) -> bytes:
    return segment(0xE2, b"ICC_PROFILE\0\1\1" + content)


def _png_of(width: int, height: int, color: int, *chunks: bytes) -> bytes:
    head = struct.pack(">LL5B", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND")


def _tiff(tags: Sequence[tuple[int, int, int]], order: str = "<", next_directory: int = 0) -> bytes:
    """A TIFF of tags with one value each: (tag, type, value)."""
    entries = b"".join(struct.pack(f"{order}HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(f"{order}LH", 8, len(tags))
    return head + entries + struct.pack(f"{order}L", next_directory)


def _packed_tiff(side: int, compression: int, packed: bytes) -> bytes:
    """A grey TIFF whose one strip is compressed: 8 is Deflate, 32773 PackBits."""
    kinds = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, compression), (262, 3, 1)]
    kinds += [(273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 4, side), (279, 4, len(packed))]
    return _tiff(kinds) + packed


def _webp(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<L", 4 + len(chunks)) + b"WEBP" + chunks


def _riff(kind: bytes, data: bytes = b"") -> bytes:
    return kind + struct.pack("<L", len(data)) + data + bytes(len(data) % 2)


@functools.cache
def _progressive(side: int) -> bytes:
    return encoded(Image.new("RGB", (side, side), (9, 99, 200)), "JPEG", progressive=True)


def _animation(num_frames: int) -> bytes:
    frame = b"!\xf9\4\0\0\0\0\0," + bytes(4) + b"\1\0\1\0\0" + b"\2\2D\1\0"  # one pixel
    return b"GIF89a" + struct.pack("<HH3B", 32, 32, 0, 0, 0) + frame * num_frames + b";"


def _apng(num_frames: int) -> bytes:
    control = struct.pack(">LLLLLHHBB", 0, 32, 32, 0, 0, 1, 1, 0, 0)
    frames = chunk(b"fcTL", control) + chunk(b"fdAT", bytes(4))
    return _between(SMALL_PNG, 33, chunk(b"acTL", struct.pack(">LL", num_frames, 0)) + frames * num_frames)


@functools.cache
def _large_data() -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(30 * MB), 9))


ZTXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a"))
SQUARE = [(256, 4, 32), (257, 4, 32)]
SIDES_OF_4_BILLION = [(256, 4, 2**32 - 1), (257, 4, 2**32 - 1), (258, 3, 8), (259, 3, 1)]
IMAGES: dict[str, Callable[[], bytes]] = {
    "jpeg: 60 MB of EXIF": lambda: _between(SMALL_JPEG, 2, segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 960),
    "jpeg: 16 MB of EXIF that claims much": lambda: _between(SMALL_JPEG, 2, segment(0xE1, EXIF_BOMB[:65_000]) * 240),
    "jpeg: 900 EXIF of a few bytes": lambda: _between(SMALL_JPEG, 2, segment(0xE1, b"Exif\0\0II*\0") * 900),
    "jpeg: 60 MB of empty segments": lambda: _between(SMALL_JPEG, 2, segment(0xEF, b"") * (15 * MB)),
    "jpeg: 60 MB of restart intervals": lambda: _between(SMALL_JPEG, 2, segment(0xDD, b"\0\0") * (10 * MB)),
    "jpeg: 60 MB of profiles": lambda: _between(SMALL_JPEG, 2, _profile(bytes(65_000)) * 960),
    "jpeg: 60 MB of fill bytes": lambda: _between(SMALL_JPEG, 2, b"\xff" * (60 * MB)),
    "jpeg: 60 MB of fill bytes after its header": lambda: _between(SMALL_JPEG, JPEG_SCAN, b"\xff" * (60 * MB)),
    "jpeg: 60 MB of fill bytes in its data": lambda: _between(SMALL_JPEG, -2, b"\xff" * (60 * MB)),
    "jpeg: 60 MB of zeros in its data": lambda: _between(SMALL_JPEG, -2, bytes(60 * MB)),
    "jpeg: 60 MB of escapes in its data": lambda: _between(SMALL_JPEG, -2, b"\xff\0" * (30 * MB)),
    "jpeg: 60 MB of restarts in its data": lambda: _between(SMALL_JPEG, -2, b"\xff\xd0" * (30 * MB)),
    "jpeg: 60 MB of comments between scans": lambda: _between(SMALL_JPEG, -2, segment(0xFE, b"") * (15 * MB)),
    "jpeg: 60 MB of ends": lambda: SMALL_JPEG + b"\xff\xd9" * (30 * MB),
    "jpeg: 60 MB of beginnings": lambda: b"\xff\xd8" * (30 * MB) + SMALL_JPEG,
    "jpeg: a progressive one of 12,000 x 12,000": lambda: _resized_jpeg(_progressive(512), 12_000),
    "jpeg: a progressive one of 65,500 x 65,500": lambda: _resized_jpeg(_progressive(512), 65_500),
    "jpeg: a baseline one of 65,500 x 65,500": lambda: _resized_jpeg(SMALL_JPEG, 65_500),
    "jpeg: 90 scans of 4,096 x 4,096": lambda: _more_scans(_progressive(4096), 90),
    "png: 60 MB of empty chunks": lambda: _between(SMALL_PNG, 33, chunk(b"zzZz") * (5 * MB)),
    "png: 60 MB of empty data": lambda: _between(SMALL_PNG, 33, chunk(b"IDAT") * (5 * MB)),
    "png: 60 MB of texts": lambda: _between(SMALL_PNG, 33, chunk(b"tEXt", b"a\0") * (4 * MB)),
    "png: 130,000 texts": lambda: _between(SMALL_PNG, 33, chunk(b"tEXt", b"a\0b") * 130_000),
    "png: 130,000 packed texts": lambda: _between(SMALL_PNG, 33, ZTXT * 130_000),
    "png: 60 MB of one text": lambda: _between(SMALL_PNG, 33, chunk(b"tEXt", b"a\0" + b"b" * (60 * MB))),
    "png: 60 MB after its end": lambda: SMALL_PNG + chunk(b"zzZz") * (5 * MB),
    "png: 40,000 frames": lambda: _apng(40_000),
    "png: a claim of 4 billion frames": lambda: (
        _between(SMALL_PNG, 33, chunk(b"acTL", struct.pack(">LL", 2**31, 0)))
    ),
    "png: 65,000 suggested palettes": lambda: _between(SMALL_PNG, 33, chunk(b"sPLT", b"a\0\10" + bytes(600)) * 65_000),
    "png: 1,000 times 30 MB of data in 32 x 32": lambda: _png_of(32, 32, 2, *[_large_data()] * 1000),
    "png: 2 billion x 1": lambda: _png_of(2**31 - 1, 1, 0, _large_data()),
    "png: 1 x 100 million": lambda: _png_of(1, 10**8, 0, _large_data()),
    "png: 12,000 x 12,000 grey": lambda: _png_of(
        12_000, 12_000, 0, chunk(b"IDAT", zlib.compress(bytes(12_001 * 12_000)))
    ),
    "gif: 60 MB of comments": lambda: _between(SMALL_GIF, GIF_START, b"!\xfe\1a\0" * (12 * MB)),
    "gif: one comment of 60 MB": lambda: _between(SMALL_GIF, GIF_START, b"!\xfe" + b"\1a" * (30 * MB) + b"\0"),
    "gif: 60 MB of empty blocks": lambda: _between(SMALL_GIF, GIF_START, b"!\xf9\0" * (20 * MB)),
    "gif: a million frames": lambda: _animation(10**6),
    "gif: 100,000 frames": lambda: _animation(100_000),
    "gif: a canvas of 65,535 x 65,535": lambda: SMALL_GIF[:6] + b"\xff" * 4 + SMALL_GIF[10:],
    "gif: 60 MB of clear codes": lambda: _gif_of_clear_codes(60 * MB),
    "tiff: 20,000 x 20,000 of zeros": lambda: _packed_tiff(20_000, 8, zlib.compress(bytes(20_000 * 20_000))),
    "tiff: 12,000 x 12,000 of zeros": lambda: _packed_tiff(12_000, 8, zlib.compress(bytes(12_000 * 12_000))),
    "tiff: 32 x 32, and 300 MB in its strip": lambda: _packed_tiff(32, 8, zlib.compress(bytes(300 * MB))),
    "tiff: PackBits of 60 MB": lambda: _packed_tiff(12_000, 32773, b"\x81\0" * (30 * MB)),
    "tiff: a million strips": lambda: tiff_of_strips(10**6),
    "tiff: 200,000 strips": lambda: tiff_of_strips(200_000),
    "tiff: a directory that is its own next": lambda: _tiff(SQUARE, next_directory=8),
    "tiff: a part that is the directory itself": lambda: _tiff([*SQUARE, (330, 4, 8), (34665, 4, 8)]),
    "tiff: 65,535 tags": lambda: _tiff([(i, 3, 1) for i in range(1, 65_536)]),
    "tiff: 4 billion x 4 billion": lambda: _tiff(SIDES_OF_4_BILLION),
    "webp: 60 MB of empty chunks": lambda: _webp(_riff(b"VP8X", bytes(10)) + _riff(b"zzzz") * (7 * MB)),
    "webp: 60 MB of EXIF": lambda: _webp(_riff(b"VP8X", b"\x08" + bytes(9)) + _riff(b"EXIF", bytes(59 * MB))),
    "webp: 16,383 x 16,383": lambda: (
        encoded(Image.new("L", (16_383, 1), 9), "WEBP", lossless=True)[:20] + b"/\xff\xff\xff\x0f"
    ),
    "webp: a canvas of 16 million x 16 million": lambda: _webp(
        _riff(b"VP8X", b"\2" + bytes(3) + b"\xff" * 6) + _riff(b"ANIM", bytes(6)) + _riff(b"ANMF", bytes(16)) * 1000
    ),
    "webp: a size of 4 GB": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff/" + bytes(30),
    "pnm: a comment of 60 MB": lambda: b"P6 #" + b"a" * (60 * MB) + b"\n2 2 255\n" + bytes(12),
    "pnm: 60 MB of comments": lambda: b"P6 " + b"#\n" * (30 * MB) + b"2 2 255\n" + bytes(12),
    "pnm: 60 MB of digits": lambda: b"P6 " + b"9" * (60 * MB) + b" 2 255\n" + bytes(12),
    "pnm: plain, 60 MB of numbers": lambda: b"P3 3000 3000 255\n" + b"1 " * (30 * MB),
    "pnm: plain, 15 MB of numbers": lambda: b"P3 1500 1600 255\n" + b"1 " * 7_200_000,
    "pnm: plain, one number of 15 MB": lambda: b"P3 2 2 255\n" + b"1" * (15 * MB),
    "pnm: plain bits, 15 MB": lambda: b"P1 4000 3900\n" + b"1" * (15_600_000),
    "pnm: 60,000 x 60,000": lambda: b"P5 60000 60000 255\n" + bytes(99),
    "bmp: RLE of 12,000 x 12,000": lambda: _rle_bmp(12_000),
    "bmp: 2 billion colors": lambda: (
        b"BM" + struct.pack("<LLLLllHHLLllLL", 99, 0, 54, 40, 32, 32, 1, 8, 0, 0, 0, 0, 2**31, 0)
    ),
}  # fmt: skip


def _resized_jpeg(data: bytes, side: int) -> bytes:
    """Change the size in the frame header: what follows says too little, which libjpeg makes up."""
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: start + 5] + struct.pack(">HH", side, side) + data[start + 9 :]


def _more_scans(data: bytes, count: int) -> bytes:
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[data.rindex(b"\xff\xc4", 0, last) : -2] * count + b"\xff\xd9"


def _gif_of_clear_codes(num_bytes: int) -> bytes:
    codes = b"\xff" + b"\x24\x49\x92" * 85  # 3-bit codes, each of them 4: clear
    image = b"," + bytes(4) + struct.pack("<HHBB", 32, 32, 0, 2) + codes * (num_bytes // 256) + b"\0;"
    return b"GIF89a" + struct.pack("<HH3B", 32, 32, 0, 0, 0) + image


def _rle_bmp(side: int) -> bytes:
    rows = (b"\xff\1" * (side // 255) + bytes([side % 255, 1]) + b"\0\0") * side + b"\0\1"
    start = 54 + 1024
    head = struct.pack("<LLLLllHHLLllLL", start + len(rows), 0, start, 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + head + bytes(1024) + rows


def _in_folder(data: Callable[[], bytes], suffix: str) -> Prepare:
    def prepare(sandbox: Sandbox) -> Sequence[object]:
        write_tree(sandbox.inputs, {**classes(), f"train/a/9.{suffix}": data()})
        return train_on(sandbox.inputs)

    return prepare


def _in_archive(data: Callable[[], bytes], suffix: str) -> Prepare:
    """In a .tar.xz, where repetitions take no room."""

    def prepare(sandbox: Sandbox) -> Sequence[object]:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in {**classes(), f"train/a/9.{suffix}": data()}.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        path = sandbox.inputs / "a.tar.xz"
        path.write_bytes(lzma.compress(file.getvalue(), preset=1))
        return train_on(path)

    return prepare


def _image_cases() -> Iterator[BoundedCase]:
    for place, prepare in (("folder", _in_folder), ("tar.xz", _in_archive)):
        for name, data in IMAGES.items():
            yield BoundedCase(f"{place}, {name}", prepare(data, name.partition(":")[0]))


# --- policies and configurations ---


def _with_policy(*nodes: object) -> Prepare:
    text = yaml.safe_dump(
        {"__version__": "2.0.8", "transform": {"__class_fullname__": "Compose", "transforms": [*nodes]}}
    )
    return _with_yaml("--augment", text.encode)


def _with_yaml(option: str, text: Callable[[], bytes]) -> Prepare:
    def prepare(sandbox: Sandbox) -> Sequence[object]:
        path = sandbox.inputs / "given.yaml"
        path.write_bytes(text())
        return train_on("shapes", *FEW, option, path)

    return prepare


RESIZE = node("Resize", height=360, width=360)
COSTLY = {
    "64 median filters": [node("MedianBlur", blur_limit=[359, 359], p=1.0)] * 64,
    "64 motion blurs": [node("MotionBlur", blur_limit=[359, 359], p=1.0)] * 64,
    "glass on a large image": [RESIZE, node("GlassBlur", sigma=1.0, max_delta=360, iterations=16, p=1.0)],
    "20 elastic ones on a large image": [RESIZE, *[node("ElasticTransform", alpha=360, sigma=360, p=1.0)] * 20],
    "superpixels of a large image": [RESIZE, node("Superpixels", n_segments=[360, 360], p_replace=[1, 1], p=1.0)],
    "20 superpixels": [node("Superpixels", n_segments=[360, 360], p_replace=[1, 1], p=1.0)] * 20,
    "a zoom of many steps": [RESIZE, node("ZoomBlur", max_factor=3.0, step_factor=[0.01, 0.01], p=1.0)],
    "spatter on a large image": [RESIZE, *[node("Spatter", p=1.0)] * 30],
    "20 denoising ones": [RESIZE, *[node("AdvancedBlur", blur_limit=[359, 359], p=1.0)] * 20],
    "rain, snow, fog, shadows": [RESIZE, *[node(n, p=1.0) for n in ("RandomRain", "RandomSnow", "RandomFog")] * 9],
    "360 holes": [node("CoarseDropout", num_holes_range=[360, 360], p=1.0)] * 60,
    "a grid of 32 x 32": [RESIZE, *[node("GridElasticDeform", num_grid_xy=[32, 32], magnitude=360, p=1.0)] * 20],
    "plates of 8 points": [RESIZE, *[node("ThinPlateSpline", num_control_points=8, p=1.0)] * 20],
    "360 of 64 chosen": [node("SomeOf", n=360, replace=True, transforms=[RESIZE] * 30, p=1.0)],
    "groups of groups of groups": [
        node("SomeOf", n=99, replace=True, transforms=[
            node("SomeOf", n=99, replace=True, transforms=[node("Blur", blur_limit=[359, 359], p=1.0)] * 3, p=1.0),
        ] * 3, p=1.0),
    ],
    "pads that grow": [node("PadIfNeeded", min_height=360, min_width=360), *[node("Pad", padding=360)] * 2],
    "scales that grow": [RESIZE, *[node("RandomScale", scale_limit=[3.0, 3.0], p=1.0)] * 2],
    "a rare one of a large image": [node("RandomScale", scale_limit=[3.0, 3.0], p=1e-9)] * 2 + [RESIZE],
}  # fmt: skip
YAML_TEXTS: dict[str, Callable[[], bytes]] = {
    "64 kB of lists": lambda: b"a: " + b"[" * 30_000 + b"]" * 30_000,
    "64 kB of open lists": lambda: b"a: " + b"[" * 65_000,
    "64 kB of open objects": lambda: b"a: " + b"{a: " * 16_000,
    "64 kB of dashes": lambda: b"a:\n" + b"- " * 32_000,
    "64 kB of question marks": lambda: b"? " * 32_000,
    "64 kB of anchors": lambda: b"".join(b"a%d: &a%d [1]\n" % (i, i) for i in range(3000)),
    "an alias bomb": lambda: b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(12)
    ),
    "merges": lambda: b"a: &a {x: 1}\nb: {<<: [*a, *a]}\n",
    "64 kB of keys": lambda: b"".join(b"k%d:\n" % i for i in range(7000)),
    "64 kB of one key": lambda: b"k" * 65_000 + b": 1\n",
    "64 kB of digits": lambda: b"seed: " + b"9" * 65_000 + b"\n",
    "64 kB of a sexagesimal": lambda: b"seed: 1" + b":59" * 21_000 + b"\n",
    "64 kB of an exponent": lambda: b"lr_max: 1.e+" + b"9" * 60_000 + b"\n",
    "64 kB of a float": lambda: b"lr_max: ." + b"_9" * 30_000 + b"\n",
    "64 kB of a binary": lambda: b"name: !!binary " + b"A" * 64_000 + b"\n",
    "64 kB of omap": lambda: b"name: !!omap [" + b"{a: 1}," * 9000 + b"]\n",
    "64 kB of escapes": lambda: b'name: "' + b"\\U0010FFFF" * 6000 + b'"\n',
    "64 kB of quotes": lambda: b"name: '" + b"''" * 32_000 + b"'\n",
    "64 kB of comments": lambda: b"#\n" * 32_000 + b"seed: 1\n",
    "64 kB of documents": lambda: b"---\n" * 16_000,
    "64 kB of directives": lambda: b"%TAG !a! b\n" * 5900 + b"---\nseed: 1\n",
    "64 kB of tags": lambda: b"seed: !" + b"a" * 65_000 + b" 1\n",
    "64 kB of folded lines": lambda: b"name: >\n" + b" a\n" * 21_000,
    "UTF-32": lambda: "seed: 1\n".encode("utf-32"),
    "a byte order mark in between": "seed: 1\n\ufeffname: a\n".encode,
    "a sparse file of 1 GiB": lambda: bytes(65_537),
}  # fmt: skip


def _text_cases() -> Iterator[BoundedCase]:
    for name, nodes in COSTLY.items():
        yield BoundedCase(f"--augment, {name}", _with_policy(*nodes))
    for option in ("--config", "--augment"):
        for name, text in YAML_TEXTS.items():
            yield BoundedCase(f"{option}, {name}", _with_yaml(option, text), (0, 2, 3))


# --- pipes and devices in place of files ---


PATH_OPTIONS: dict[str, tuple[object, ...]] = {
    "--config": ("zigzag", "--config"),
    "--config of a training": (*train_on("shapes", *FEW), "--config"),
    "--augment": (*train_on("shapes", *FEW), "--augment"),
    "--data": ("train", "--epochs", 1, "--device", "cpu", "--data"),
    "--data-dir": (*train_on("cifar10", *FEW), "--data-dir"),
    "--resume": ("train", "--resume"),
    "--lr-from": ("train", "--data", "shapes", *FEW, "--epochs", 1, "--device", "cpu", "--lr-from"),
    "--runs-dir": ("zigzag", "--runs-dir"),
    "--runs-dir of a training": (*train_on("shapes", *FEW), "--runs-dir"),
    "--out of zigzag": ("zigzag", "--out"),
    "--csv of zigzag": ("zigzag", "--csv"),
    "--run of zigzag": ("zigzag", "--run"),
    "--ckpt of evaluate": ("evaluate", "--ckpt"),
    "--ckpt of gradcam": ("gradcam", "--ckpt"),
    "--ckpt of predict": ("predict", "x.png", "--ckpt"),
    "report": ("report",),
    "report --out": ("report", "x", "--out"),
    "predict": ("predict", "--ckpt", "x"),
    "lr-range --data": ("lr-range", "--data"),
    "lr-range --config": ("lr-range", "--data", "shapes", "--config"),
}  # fmt: skip


def _path_cases() -> Iterator[BoundedCase]:
    kinds: dict[str, Callable[[Sandbox], object]] = {
        "a pipe": lambda sandbox: os.mkfifo(sandbox.inputs / "odd.png"),
        "a link to a pipe": _linked_pipe,
        "/dev/zero": lambda sandbox: (sandbox.inputs / "odd.png").symlink_to("/dev/zero"),
        "a terminal": lambda sandbox: (sandbox.inputs / "odd.png").symlink_to("/dev/tty"),
    }
    for option, words in PATH_OPTIONS.items():
        for kind, make in kinds.items():

            def prepare(
                sandbox: Sandbox, words: tuple[object, ...] = tuple(words), make: Callable[[Sandbox], object] = make
            ) -> Sequence[object]:
                make(sandbox)
                return [*words, sandbox.inputs / "odd.png"]

            yield BoundedCase(f"{option} {kind}", prepare, (2, 3, 4))


def _linked_pipe(sandbox: Sandbox) -> None:
    os.mkfifo(sandbox.inputs / "pipe")
    (sandbox.inputs / "odd.png").symlink_to("pipe")


def rows(quick: bool) -> list[ScoreRow]:
    """Three rows: images, texts, and places."""
    return [
        run_bounded("M hostile images", list(_image_cases())[:: 40 if quick else 1]),
        run_bounded("M costly policies and texts", list(_text_cases())[:: 24 if quick else 1]),
        run_bounded("M pipes and devices as files", list(_path_cases())[:: 20 if quick else 1]),
    ]
