"""The bytes of a gzip, bzip2 or xz file, taken forward in small pieces.

In: an open file. Out: pieces of its contents; its checksums are looked at on the way.

The decoders are the standard library's; the walk from member to member is ours: its `GzipFile` reads the name in a
header byte by byte, its `LZMAFile` and `BZ2File` take junk for the end, and none bounds the memory of a dictionary.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

_PIECE = 2**16  # bytes, of contents
_INPUT = 2**14  # bytes, of the file: what is left of them is copied at the end of each member
_MEMBERS_MAX = 300_000  # of a file put together from many; bgzip makes one of every 64 kB
XZ_MEMORY_MAX = 2**27  # bytes: `xz -9` needs half of it

_DECODERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),  # 31: with gzip's header and checksum
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX),
}


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """What the file holds, unpacked if it is packed.

    Raises EOFError, OSError, ValueError, zlib.error or lzma.LZMAError for a damaged one.
    """
    start = file.read(6)
    file.seek(0)
    decoder = next((new for magic, new in _DECODERS.items() if start.startswith(magic)), None)
    return iter(lambda: file.read(_PIECE), b"") if decoder is None else _unpacked(file, decoder)


def _unpacked(file: BinaryIO, new_decoder: Callable[[], Any]) -> Iterator[bytes]:
    packed = file.read(_INPUT)
    for _ in range(_MEMBERS_MAX):
        decoder = new_decoder()
        while not decoder.eof:
            if data := decoder.decompress(packed, _PIECE):
                yield data
            # zlib hands back what it has not come to; the others keep it, and go on when they are given nothing.
            packed = getattr(decoder, "unconsumed_tail", b"")
            if not (data or packed or decoder.eof or (packed := file.read(_INPUT))):
                raise EOFError("cut off")
        packed = decoder.unused_data.lstrip(b"\0")  # members may be filled up with zeros
        while not packed:
            if not (more := file.read(_INPUT)):
                return
            packed = more.lstrip(b"\0")
    raise ValueError(f"more than {_MEMBERS_MAX:,} compressed parts")
