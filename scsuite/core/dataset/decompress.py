"""Read a gzip, bzip2 or xz file forward, in small chunks.

In: an open file. Out: chunks of its decompressed contents; checksums are verified on the way.

The decoders are the standard library's, the loop over the members of a file is ours: `GzipFile` reads the name in a
header byte by byte, `LZMAFile` and `BZ2File` take garbage for the end, and none limits the memory of a dictionary.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

MAX_XZ_MEMORY = 2**27  # bytes; `xz -9` needs half of it
_CHUNK = 2**16  # decompressed bytes
_INPUT = 2**14  # compressed bytes read at a time; the unused rest is copied at the end of each member
_MAX_MEMBERS = 300_000  # of one file; bgzip writes one for every 64 kB

_DECODERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),  # 31: with gzip's header and checksum
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY),
}


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the file's contents, decompressed if it is compressed.

    Raises EOFError, OSError, ValueError, zlib.error or lzma.LZMAError for a damaged file.
    """
    magic = file.read(6)
    file.seek(0)
    make_decoder = next((make for start, make in _DECODERS.items() if magic.startswith(start)), None)
    return iter(lambda: file.read(_CHUNK), b"") if make_decoder is None else _decompress(file, make_decoder)


def _decompress(file: BinaryIO, make_decoder: Callable[[], Any]) -> Iterator[bytes]:
    data = file.read(_INPUT)
    for _ in range(_MAX_MEMBERS):
        decoder = make_decoder()
        while not decoder.eof:
            if chunk := decoder.decompress(data, _CHUNK):
                yield chunk
            # zlib returns the input that it has not used; the others keep it and continue when given no input.
            data = getattr(decoder, "unconsumed_tail", b"")
            if not (chunk or data or decoder.eof or (data := file.read(_INPUT))):
                raise EOFError("truncated")
        data = decoder.unused_data.lstrip(b"\0")  # members may be padded with zeros
        while not data:
            if not (more := file.read(_INPUT)):
                return
            data = more.lstrip(b"\0")
    raise ValueError(f"more than {_MAX_MEMBERS:,} compressed members")
