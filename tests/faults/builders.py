"""Build the input data of fault cases: trees of small images, tar and zip files byte by byte, training arguments."""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from tests.faults.case import FaultCase
from tests.faults.sandbox import Sandbox
from tests.tiny_args import ONE_EPOCH_ARGS

Tree = Mapping[str, bytes]


def train_on(data: object, *more: object) -> list[object]:
    """Arguments of the shortest training, on this data."""
    return ["train", "--data", data, *ONE_EPOCH_ARGS, *more]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (32, 32)) -> bytes:
    """A ramp whose color depends on the number, so that no two numbers give the same image."""
    ramp = Image.linear_gradient("L").resize(size)
    flat = Image.new("L", size, number * 37 % 256)
    return encoded(Image.merge("RGB", (ramp, flat, Image.new("L", size, number))), kind)


@functools.cache
def classes() -> Tree:
    """Two classes with three training and two test images each."""
    names = [f"{split}/{kind}/{i}.png" for split, n in (("train", 3), ("test", 2)) for kind in "ab" for i in range(n)]
    return {name: picture(number) for number, name in enumerate(names)}


def file_case(
    fault: str, name: str, file: str, data: bytes | Callable[[], bytes], words: tuple[str, ...] = (), code: int = 3
) -> FaultCase:
    """A training on one file of these bytes; large files are made when the case runs."""

    def prepare(sandbox: Sandbox) -> list[object]:
        path = sandbox.inputs / file
        path.write_bytes(data if isinstance(data, bytes) else data())
        return train_on(path)

    return FaultCase(fault, name, prepare, code, words)


def write_tree(root: Path, tree: Tree) -> Path:
    """Write the files of a tree to the disk."""
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


# --- tar: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, "ustar Interchange Format" ---

END = bytes(1024)  # two blocks of zeros end an archive


def header(
    name: bytes, size: int = 0, kind: bytes = b"0", link: bytes = b"", mode: int = 0o644, raw_size: bytes = b""
) -> bytes:
    """One header block; `raw_size` replaces the octal digits of the size."""
    digits = raw_size or b"%011o\0" % size
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x", name, b"%07o\0" % mode, b"0000000\0", b"0000000\0", digits,
        b"00000000000\0", b" " * 8, kind, link, b"ustar\x0000", b"", b"", b"0000000\0", b"0000000\0", b"",
    )  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def member(name: str, data: bytes, kind: bytes = b"0", mode: int = 0o644) -> bytes:
    """Header and contents, padded to full blocks."""
    return header(name.encode("utf-8", "surrogateescape"), len(data), kind, mode=mode) + data + bytes(-len(data) % 512)


def tar(*blocks: bytes, tree: Tree | None = None) -> bytes:
    """A valid archive with these blocks before its end mark."""
    members = classes() if tree is None else tree
    return b"".join(member(name, data) for name, data in members.items()) + b"".join(blocks) + END


# --- zip: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT ---


def local(name: bytes, crc: int, packed: int, size: int, method: int = 8, flags: int = 0) -> bytes:
    """The header before a member's bytes (4.3.7)."""
    return struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0x21, crc, packed, size, len(name), 0) + name


def entry(
    name: bytes, crc: int, packed: int, size: int, offset: int, method: int = 8, flags: int = 0, mode: int = 0
) -> bytes:
    """The member's entry in the central directory (4.3.12), as made on Unix."""
    return struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, flags, method, 0, 0x21, crc, packed, size, len(name), 0, 0, 0, 0,
        mode << 16, offset,
    ) + name  # fmt: skip


def zip_end(count: int, size: int, offset: int) -> bytes:
    """The end record of the central directory (4.3.16)."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, min(count, 65535), min(count, 65535), size, offset, 0)


def deflated(data: bytes) -> bytes:
    """Raw deflate, as in a zip file."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()
