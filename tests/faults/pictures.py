"""C: image folders. Broken files are found before the first epoch and named; odd ones become RGB by a stated rule."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, PngImagePlugin

from tests.faults.builders import Tree, classes, encoded, picture, train_on, write_tree
from tests.faults.case import FaultCase, ScoreRow, check_cases
from tests.faults.sandbox import Sandbox

HERE = "train/a/9"  # where one more picture is put; its suffix follows
MB = 2**20


def _folder(
    fault: str, name: str, tree: Tree, words: tuple[str, ...] = (), code: int = 3,
    after: Callable[[Sandbox], str] = lambda _sandbox: "",
) -> FaultCase:  # fmt: skip
    """A training on the two valid classes with these files added."""

    def prepare(sandbox: Sandbox) -> list[object]:
        return train_on(write_tree(sandbox.inputs, {**classes(), **tree}))

    return FaultCase(fault, name, prepare, code, words, after=after)


def _bare(fault: str, name: str, tree: Tree, words: tuple[str, ...], code: int = 3) -> FaultCase:
    """A training on these files alone."""
    return FaultCase(fault, name, lambda sandbox: train_on(write_tree(sandbox.inputs, tree)), code, words)


def _decoded(sandbox: Sandbox, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from scsuite import load_dataset

    train = load_dataset(str(sandbox.inputs)).train
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = train.images_NHWC[train.files.index(name)]
    return pixels


def _becomes(fault: str, name: str, file: str, data: bytes, expected: object, words: tuple[str, ...] = ()) -> FaultCase:
    """A training that ends well, on a picture that is decoded to these pixels, to one grey level."""

    def off(sandbox: Sandbox) -> str:
        found = _decoded(sandbox, file).astype(int)
        away = int(np.abs(found - np.asarray(expected, dtype=int)).max())
        return f"pixels are {away} away, the first is {found[0, 0].tolist()}" if away > 1 else ""

    return _folder(fault, name, {file: data}, ("final", *words), 0, after=off)


# --- 23: broken; 24: sizes ---


def _broken() -> Iterator[FaultCase]:
    png, jpeg, webp, bmp = (picture(50, kind, (64, 64)) for kind in ("PNG", "JPEG", "WEBP", "BMP"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    spoilt = {
        "an empty file": (".png", b"", "an empty file"),
        "text": (".png", b"hello", "a text file"),
        "half a PNG": (".png", png[: len(png) // 2], "corrupt"),
        "a PNG without its end": (".png", png[:-12], "corrupt"),
        "a PNG without its last byte": (".png", png[:-1], "corrupt"),
        "a flipped bit in a PNG": (".png", bytes(flipped), "corrupt"),
        "half a JPEG": (".jpg", jpeg[: len(jpeg) // 2], "found"),
        "a JPEG without its end": (".jpg", jpeg[:-2], "corrupt"),
        "half a WebP": (".webp", webp[: len(webp) // 2], "found"),
        "half a BMP": (".bmp", bmp[: len(bmp) // 2], "corrupt"),
        "a header of a JPEG": (".jpg", jpeg[:20], "found"),
        "zeros": (".jpg", bytes(5000), "no image"),
    }
    for name, (suffix, data, word) in spoilt.items():
        yield _folder("C23", name, {HERE + suffix: data}, (f"9{suffix}", word))
    many = {f"train/b/bad{i}.png": b"" for i in range(9)}
    yield _folder("C23", "nine broken files", many, ("bad0.png", "bad8.png", "Replace or remove them"))


def _sizes() -> Iterator[FaultCase]:
    flat = {
        size: encoded(Image.new("RGB", size, (10, 200, 90)))
        for size in ((1, 1), (33, 32), (31, 40), (5000, 3000), (1, 5000))
    }
    for (width, height), data in flat.items():
        yield _becomes(
            "C24", f"{width} x {height}", HERE + ".png", data, (10, 200, 90), ("1 of 11 images were resized",)
        )
    yield _folder(
        "C24",
        "sizes of all kinds",
        {f"train/a/s{i}.png": d for i, d in enumerate(flat.values())},
        ("5 of 15 images were resized",),
        0,
    )


# --- 25, 26: modes; 27: other formats; 29: turned, misnamed ---


def _modes() -> Iterator[FaultCase]:
    def of(mode: str, colour: object) -> Image.Image:
        return Image.new(mode, (32, 32), colour)  # type: ignore[arg-type]

    palette = of("P", 0)
    palette.putpalette([7, 8, 9] * 256)
    odd = {
        "CMYK": (".jpg", encoded(of("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
        "P": (".png", encoded(palette), (7, 8, 9)),
        "L": (".png", encoded(of("L", 77)), (77, 77, 77)),
        "1": (".png", encoded(of("1", 1)), (255, 255, 255)),
        "LA, transparent": (".png", encoded(of("LA", (9, 0))), (255, 255, 255)),
        "RGBA, transparent red": (".png", encoded(of("RGBA", (255, 0, 0, 0))), (255, 255, 255)),
        "RGBA, half of blue": (".png", encoded(of("RGBA", (0, 0, 255, 128))), (127, 127, 255)),
        "RGBA WebP": (".webp", encoded(of("RGBA", (255, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255)),
    }
    for name, (suffix, data, colour) in odd.items():
        yield _becomes("C25", name, HERE + suffix, data, colour)
    deep = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    ramp = np.repeat(np.rint(deep / 257)[..., None], 3, axis=2)
    yield _becomes("C26", "16-bit grey", HERE + ".png", encoded(Image.fromarray(deep)), ramp)
    unit = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    grey = np.repeat(np.rint(255 * unit)[..., None], 3, axis=2)
    yield _becomes("C26", "a float TIFF", HERE + ".tif", encoded(Image.fromarray(unit), "TIFF"), grey)
    yield _folder(
        "C26", "a TIFF below 0", {HERE + ".tif": encoded(Image.fromarray(unit - 9), "TIFF")}, ("gray values",)
    )


def _formats() -> Iterator[FaultCase]:
    frames = [Image.new("RGB", (32, 32), (i, i, i)) for i in range(1000)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:9])
    pages = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    eps, svg, pdf = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg onload='x()'/>", b"%PDF-1.7\n"
    yield _becomes("C27", "the first frame of a GIF", HERE + ".gif", gif, (0, 0, 0))
    yield _becomes("C27", "the first page of a TIFF", HERE + ".tif", pages, (0, 0, 0))
    others = {".eps": eps, ".svg": svg, ".pdf": pdf}
    for suffix, data in others.items():
        words = ("1 file that is not an image by its name was skipped", f"9{suffix}")
        yield _folder("C27", f"a {suffix} is passed over and named", {HERE + suffix: data}, words, 0)
        yield _folder("C27", f"a {suffix} called .png", {HERE + ".png": data}, (f" {suffix[1:4].upper()}",))
    moving = encoded(
        Image.new("RGB", (32, 32), (9, 9, 9)), "WEBP", save_all=True, append_images=frames[200:300], lossless=True
    )
    yield _becomes("C27", "an animated WebP's first frame", HERE + ".webp", moving, (9, 9, 9))
    yield _becomes("C29", "a JPEG called .png", HERE + ".png", encoded(frames[99], "JPEG", quality=100), (99, 99, 99))
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:16] = 255  # white above; to be turned clockwise, so that white is on the right
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(halves), "PNG", exif=exif)
    yield _becomes("C29", "turned by its EXIF", HERE + ".png", turned, halves.transpose(1, 0, 2)[:, ::-1])
    for name, value in (("9", 9), ("65535", 65535)):
        exif[0x0112] = value
        yield _becomes(
            "C29", f"an orientation of {name}", HERE + ".png", encoded(Image.fromarray(halves), exif=exif), halves
        )
    yield _becomes(
        "C29",
        "EXIF of junk",
        HERE + ".png",
        encoded(Image.fromarray(halves), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        halves,
    )
    yield _becomes("C29", "letter case of its suffix", HERE + ".PnG", encoded(frames[5]), (5, 5, 5))


# --- 28: bombs ---


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, grey: bool = True) -> bytes:
    """https://www.w3.org/TR/png-3/: signature, header, these chunks, end."""
    head = struct.pack(">LL5B", width, height, 8, 0 if grey else 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(chunks) + _chunk(b"IEND", b"")


def _bombs() -> Iterator[FaultCase]:
    for side in (17_000, 20_000, 2**31 - 1):
        yield _folder(
            "C28",
            f"a header of {side} x {side}",
            {HERE + ".png": _png(side, side)},
            ("more than 178,956,970 pixels",),
        )
    for side in (8300, 13_000):
        header = {HERE + ".png": _png(side, side, _chunk(b"IDAT", zlib.compress(b"")), grey=False)}
        yield _folder("C28", f"a header of {side} x {side} in colour", header, (f"{side} x {side} pixels that needs",))
    jpeg, png = picture(50, "JPEG", (64, 64)), picture(50, "PNG", (64, 64))
    parts = {
        "JPEG segments": (".jpg", jpeg[:2] + b"\xff\xfe\0\2" * (5 * MB) + jpeg[2:], "segments"),
        "JPEG fill bytes": (".jpg", jpeg[:2] + b"\xff" * (20 * MB) + jpeg[2:], "between its segments"),
        "PNG chunks": (".png", png[:33] + _chunk(b"zzZz", b"") * (2 * MB) + png[33:], "chunks"),
    }
    for name, (suffix, data, word) in parts.items():
        yield _folder("C28", f"20 MB of empty {name}", {HERE + suffix: data}, (word,))
    huge = zlib.compress(bytes(10 * MB))
    row = _chunk(b"IDAT", zlib.compress(bytes(33 * 32)))
    for kind, data in ((b"iCCP", b"x\0\0" + huge), (b"zTXt", b"x\0\0" + huge), (b"iTXt", b"x\0\1\0\0\0" + huge)):
        yield _folder(
            "C28", f"10 MB in {kind.decode()}", {HERE + ".png": _png(32, 32, _chunk(kind, data), row)}, ("corrupt",)
        )
    text = _chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(MB - 9))) * 2000
    yield _folder("C28", "2,000 texts of 1 MB", {HERE + ".png": _png(32, 32, text, row)}, ("corrupt",))
    yield _folder(
        "C28", "a BMP of 30,000 x 30,000", {HERE + ".bmp": _bmp(30_000, 30_000)}, ("more than 178,956,970 pixels",)
    )
    yield FaultCase(
        "C28", "ten files of 64 MB", lambda sandbox: _large(sandbox, 64 * MB), 3, ("no image, or a truncated",)
    )
    yield FaultCase("C28", "a file of 129 MB", lambda sandbox: _large(sandbox, 129 * MB), 3, ("at most 128 MB",))
    full = _chunk(b"IDAT", zlib.compress(bytes(4096 * (4096 * 4 + 1)), 1))
    largest = {f"train/a/{i}9.png": _png(4096, 4096, full, grey=False) for i in range(3)}
    yield _folder("C28", "the largest allowed, and one broken", {**largest, "train/b/z.png": b""}, ("an empty file",))
    yield _folder("C28", "a JPEG of 3,000 scans", {HERE + ".jpg": _scans(3000)}, ("scans",))


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<LLLLllHHLLllLL", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _large(sandbox: Sandbox, size: int) -> list[object]:
    """Files of zeros that take no room on the disk."""
    write_tree(sandbox.inputs, classes())
    for number in range(10):
        path = sandbox.inputs / f"train/a/big{number}.png"
        path.touch()
        os.truncate(path, size)
    return train_on(sandbox.inputs)


def _scans(count: int) -> bytes:
    """A progressive JPEG of 4096 x 4096 whose last scan is there many times: each is a pass over all of the image."""
    whole = encoded(Image.new("L", (4096, 4096), 128), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    tables = whole.rindex(b"\xff\xc4", 0, last)
    return whole[:-2] + whole[tables:-2] * count + b"\xff\xd9"


# --- 30: layouts; 31: what is no file; 32: names; 33: the same image twice ---


def _layouts() -> Iterator[FaultCase]:
    good = classes()
    one = {name: data for name, data in good.items() if "/a/" in name}
    yield _bare("C30", "nothing", {}, ("found none",))
    yield _bare("C30", "no class folders", {f"{i}.png": picture(i) for i in range(4)}, ("without class folders",))
    yield _bare("C30", "one class", one, ("at least 2 classes", "only a"))
    yield _bare("C30", "an empty class", {**good, "train/c/note.txt": b""}, ("none in c",))
    yield _bare("C30", "a picture in the root", {**good, "x.png": picture(60)}, ("final",), 0)
    yield _bare("C30", "a picture beside the classes", {**good, "train/x.png": picture(60)}, ("train/x.png",))
    untested = {**good, "train/c/0.png": picture(60)}
    yield _bare("C30", "a class that only training has", untested, ("no test images of 1 of 3 classes: c",), 0)
    yield _bare("C30", "a class that only the test has", {**good, "test/c/0.png": picture(60)}, ("c only in test/",))
    yield _bare("C30", "no training images", {n: d for n, d in good.items() if n[:4] == "test"}, ("only test",))
    many = {f"{c:04}/{i}.png": picture(c % 256) for c in range(1001) for i in (0, 1)}
    few = ("--limit-train", 8, "--limit-test", 8)
    yield FaultCase(
        "C30", "1001 classes", lambda sandbox: train_on(write_tree(sandbox.inputs, many), *few), 0, ("1001 classes",)
    )
    yield _bare("C30", "text files alone", {"a/x.txt": b"", "b/y.txt": b""}, ("none, and 2 other files",))
    yield FaultCase("C30", "a missing folder", lambda sandbox: train_on(sandbox.inputs / "none"), 3, ("found No such",))


def _link(target: str) -> Callable[[Sandbox], None]:
    return lambda sandbox: (sandbox.inputs / "train/a/9.png").symlink_to(target)


def _special() -> Iterator[FaultCase]:
    def with_(name: str, spoil: Callable[[Sandbox], object], words: tuple[str, ...], code: int = 3) -> FaultCase:
        def make(sandbox: Sandbox) -> list[object]:
            write_tree(sandbox.inputs, classes())
            spoil(sandbox)
            return train_on(sandbox.inputs)

        return FaultCase("C31", name, make, code, words)

    yield with_("a link to a file that is no picture", _link("/etc/passwd"), ("9.png", "a complete image"))
    yield with_("a link to a device", _link("/dev/zero"), ("9.png",))
    skipped = ("6 training", "1 link that leads to no file, or in a circle, was skipped")
    yield with_("a link to itself", _link("9.png"), skipped, 0)
    yield with_("a link to nothing", _link("none.png"), skipped, 0)
    yield with_("a link to the folder around it", _link(".."), skipped, 0)
    yield with_("a link to the root", _link("/"), skipped, 0)
    yield with_("a link to a picture of the class", _link("0.png"), ("6 training", "not counted again"), 0)
    yield with_("a link to a picture of another class", _link("../b/0.png"), ("the same file in train/b/0.png",))
    yield with_(
        "a class that is a link", lambda sandbox: (sandbox.inputs / "train/c").symlink_to("a"), ("the same file in",)
    )
    yield with_("a pipe", lambda sandbox: os.mkfifo(sandbox.inputs / "train/a/9.png"), ("a pipe, socket or device",))
    yield with_(
        "a device",
        lambda sandbox: os.mknod(sandbox.inputs / "train/a/9.png", 0o20644, 0x105),
        ("a pipe, socket or device",),
    )
    yield with_("a folder called .png", lambda sandbox: (sandbox.inputs / "train/a/9.png").mkdir(), ("6 training",), 0)
    hidden = (
        ".DS_Store",
        "train/a/.hidden.png",
        "__MACOSX/a/._0.png",
        "train/a/Thumbs.db",
        "train/a/._0.png",
        ".git/x/y.png",
    )
    yield with_(
        "hidden files", lambda sandbox: write_tree(sandbox.inputs, dict.fromkeys(hidden, b"junk")), ("6 training",), 0
    )
    yield FaultCase("C31", "an unreadable folder", _unreadable, 3, ("Permission denied",), before=_nobody)


def _unreadable(sandbox: Sandbox) -> list[object]:
    write_tree(sandbox.inputs, classes())
    for path in (sandbox.path.parent, sandbox.path):
        path.chmod(0o777)
    (sandbox.inputs / "train/a").chmod(0)
    return train_on(sandbox.inputs)


def _nobody() -> None:
    """Root reads everything: be somebody else."""
    os.setuid(65534)


def _names() -> Iterator[FaultCase]:
    odd = {
        "a newline": "x\ny",
        "an escape sequence": "\x1b[2J\x1b]0;owned\x07",
        "no UTF-8": "\udcff\udcfe",
        "255 bytes": "n" * 251,
        "a formula": "=cmd()",
        "markup": "[red]x[/]",
        "right to left": "\u202etxt",
        "a quote": "'\"`$(x)",
    }
    for name, stem in odd.items():
        shown = stem if stem.isprintable() else stem.encode("unicode_escape").decode()
        yield _folder("C32", f"{name}, broken", {f"train/a/{stem}.png": b""}, (f"{shown}.png", "an empty file"))
        yield _folder(
            "C32",
            f"{name}, skipped",
            {f"train/a/{stem}.txt": b""},
            (f"{stem if name == 'markup' else ''}",),
            0,
            after=_no_controls,
        )
        both = {f"{split}/{stem}/0.png": picture(70 + len(split)) for split in ("train", "test")}
        yield _folder("C32", f"{name}, a class", both, ("3 classes",), 0, after=_no_controls)


def _no_controls(sandbox: Sandbox) -> str:
    """Whether anything in a report would move a terminal's cursor, or break a line of a table."""
    for path in sandbox.path.parent.glob("*.out"), sandbox.path.parent.glob("*.err"), sandbox.runs.rglob("log.txt"):
        for file in path:
            text = file.read_text(errors="surrogateescape")
            if bad := {
                c for c in text if c != "\n" and (ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 or c in "\x7f\u202e")
            }:
                return f"{file.name} has {sorted(bad)!a}"
    return ""


def _duplicates() -> Iterator[FaultCase]:
    same = {"test/a/same.png": picture(0), "test/b/same.jpg": picture(0)}
    yield _folder("C33", "the same images in both", same, ("2 of 6 test images are also among the training",), 0)
    again = encoded(Image.open(io.BytesIO(picture(0))), pnginfo=_note())
    yield _folder(
        "C33", "the same pixels in another file", {"test/a/t.png": again}, ("1 of 5 test images are also",), 0
    )
    loose = {f"{kind}/{i}.png": picture(3) for kind in "ab" for i in range(9)}
    yield _bare(
        "C33", "the same images where the test is held out", loose, ("test images are also among the training",), 0
    )


def _note() -> PngImagePlugin.PngInfo:
    note = PngImagePlugin.PngInfo()
    note.add_text("note", "another file")
    return note


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the cases of C."""
    parts = (_broken(), _sizes(), _modes(), _formats(), _bombs(), _layouts(), _special(), _names(), _duplicates())
    cases = [case for part in parts for case in part]
    return [check_cases("C image folders", cases[::4] if quick else cases)]
