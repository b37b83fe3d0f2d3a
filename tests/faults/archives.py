"""D: archives. Nothing is ever unpacked to disk, so what leads out of one is refused, and bombs meet a cap."""

import bz2
import functools
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from tests.faults.builders import (
    END,
    classes,
    deflated,
    entry,
    file_case,
    header,
    local,
    member,
    picture,
    tar,
    train_on,
    zip_end,
)  # fmt: skip
from tests.faults.case import FaultCase, ScoreRow, check_cases
from tests.faults.sandbox import Sandbox

MB = 2**20
OUT = ("a name that leads out",)
CUT = ("ends too early",)


# --- 34: names ---


def _zip(*more: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in (*classes().items(), *more):
            archive.writestr(name, data)
    return file.getvalue()


def _names() -> Iterator[FaultCase]:
    for name in (
        "../x.png",
        "/abs/x.png",
        "a/../../x.png",
        "C:\\x.png",
        "C:x.png",
        "..\\x.png",
        "../evil/../d/f",
    ):
        yield file_case("D34", f"{name} in a tar", "a.tar", tar(member(name, picture(99))), OUT)
        yield file_case("D34", f"{name} in a zip", "a.zip", _zip((name, picture(99))), OUT)
    yield file_case("D34", "a folder .. in a tar", "a.tar", tar(header(b"train/..", kind=b"5")), OUT)
    nul = _zip(("train/a/X.png", b"")).replace(b"a/X.png", b"a/\0.png")
    yield file_case("D34", "NUL in a zip", "a.zip", nul, OUT)
    for kind, text in (("x", b"20 path=train/\0a.png\n"[:20]), ("L", b"train/a/x\0.png\0")):
        spoilt = member("h", text, kind.encode()) + member("train/a/y.png", picture(99))
        yield file_case("D34", f"NUL in a long name ({kind})", "a.tar", tar(spoilt), ())
    long = member("h", b"../../x.png\0", b"L") + member("train/a/y.png", picture(99))
    yield file_case("D34", "a long name that leads out", "a.tar", tar(long), OUT)
    body = b"24 path=/etc/cron.d/png\n"
    assert len(body) == 24
    pax = member("h", body, b"x") + member("train/a/y.png", picture(99))
    yield file_case("D34", "an extended header's name that leads out", "a.tar", tar(pax), OUT)
    endless = member("h", b"a/" * 500_000 + b"\0", b"L") + header(b"l", kind=b"2", link=b"x")
    yield file_case("D34", "a link's name of a megabyte", "a.tar", tar(endless), ("a name of 1,000,000 characters",))


# --- 35: links; 36: devices and what else is no file ---


def _chain(depth: int, last: bytes) -> bytes:
    """CVE-2025-4517: folders of long names under short links, until a path is too long to be resolved."""
    blocks, name, folder = [], "d" * 240, ""
    for step in range(depth):
        long = member("h", f"{folder}{name}/\0".encode(), b"L")
        blocks += [
            long,
            header(b"d", kind=b"5"),
            header(f"{folder}{step}".encode()[:99], kind=b"2", link=name.encode()[:99]),
        ]
        folder += f"{step}/"
    return b"".join(blocks) + header(b"escape", kind=b"2", link=last)


def _links() -> Iterator[FaultCase]:
    one = functools.partial(header, b"train/a/l.png")
    spoilt = {
        "a symbolic link out": (one(kind=b"2", link=b"/etc/passwd"), "a link out of the archive"),
        "a hard link out": (one(kind=b"1", link=b"../../etc/passwd"), "leads out"),
        "a link without a name": (header(b"", kind=b"2", link=b"/etc"), "a file without a name"),
        "a link named .": (header(b"./", kind=b"2", link=b"/etc"), "a file without a name"),
        "a link with contents": (header(b"train/a/l.png", 512, kind=b"2", link=b"/") + bytes(512), "a link out of"),
        "a link under a long name": (
            member("h", b"/\0", b"K") + member("h", b"l" * 300 + b".png\0", b"L") + header(b"l", kind=b"2"),
            "a link out of the archive",
        ),
    }  # fmt: skip
    for name, (blocks, words) in spoilt.items():
        yield file_case("D35", name, "a.tar", tar(blocks), (words,))
    harmless = {  # nothing is extracted, and what no image is behind is not read
        "a symbolic link within": one(kind=b"2", link=b"0.png"),
        "chained links past PATH_MAX": _chain(16, b"0/" * 16 + b"../" * 20),
        "a hard link to a deeper link": header(b"x/y/l", kind=b"2", link=b"../../..") + one(kind=b"1", link=b"x/y/l"),
        "a hard link to a link that comes later": one(kind=b"1", link=b"x/l") + header(b"x/l", kind=b"2", link=b"/"),
        "a hidden link": header(b"__MACOSX/._x", kind=b"2", link=b"/etc"),
        "a link to the folder around it": header(b"train/a/up", kind=b"2", link=b".."),
    }
    for name, blocks in harmless.items():
        yield file_case("D35", name, "a.tar", tar(blocks), ("6 training",), 0)
    hard_link = tar(one(kind=b"1", link=b"train/a/0.png"))  # which an extraction makes to a file
    yield file_case("D35", "a hard link within", "a.tar", hard_link, ("7 training",), 0)
    yield file_case("D35", "a symbolic link in a zip", "a.zip", _unix_zip(0o120777), ("test",), 0)
    modes = {"a pipe": 0o010644, "a device": 0o060644, "a socket": 0o140644, "a setuid file": 0o104755}
    for name, mode in modes.items():
        yield file_case("D36", f"{name} in a zip", "a.zip", _unix_zip(mode), ("train/a/z.png",))
    kinds = {
        "a character device": (b"3", "a device"), "a block device": (b"4", "a device"), "a pipe": (b"6", "a pipe"),
        "a GNU sparse file": (b"S", "a sparse file"), "a volume label": (b"V", "a special file"),
        "a type of nobody's": (b"Q", "a special file"), "a part of a file": (b"M", "a special file"),
    }  # fmt: skip
    for name, (kind, words) in kinds.items():
        yield file_case("D36", name, "a.tar", tar(one(kind=kind)), (words,))
    sparse = member("h", b"22 GNU.sparse.major=1\n", b"x") + member("train/a/s.png", picture(99))
    yield file_case("D36", "a sparse file of the newer kind", "a.tar", tar(sparse), ("a sparse file",))
    for mode in (0o4755, 0o2755):
        suid = member("train/a/s.png", picture(99), mode=mode)
        yield file_case("D36", f"mode {mode:o}", "a.tar", tar(suid), ("a setuid or setgid file",))
    shared = header(b"train/a/", kind=b"5", mode=0o2775)  # as folders of a group are
    yield file_case("D36", "a folder of mode 2775 is nothing bad", "a.tar", tar(shared), ("test",), 0)


def _unix_zip(mode: int) -> bytes:
    """A good zip and one more member of this mode."""
    file = io.BytesIO(_zip())
    with zipfile.ZipFile(file, "a") as archive:
        info = zipfile.ZipInfo("train/a/z.png")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, picture(99))
    return file.getvalue()


# --- 37: sizes that lie ---


def _binary(value: int) -> bytes:
    """GNU's form of a number: base 256, the first bit set, two's complement."""
    return bytes([0xFF if value < 0 else 0x80]) + (value % 256**11).to_bytes(11, "big")


def _sizes() -> Iterator[FaultCase]:
    for name, value in (("-512", -512), ("-1", -1), ("-2**80", -(2**80)), ("2**80", 2**80), ("2**62", 2**62)):
        words = ("bytes",) if value < 0 else ()
        for file, kind in (("x.png", b"0"), ("x.txt", b"0"), ("h", b"x"), ("h", b"L")):
            block = header(f"train/a/{file}".encode(), kind=kind, raw_size=_binary(value))
            yield file_case("D37", f"a size of {name} ({kind.decode()} {file})", "a.tar", tar(block), words)
    for digits in (b"-0000000001\0", b"zzzzzzzzzzz\0", b"9" * 12, b"1_0        \0", b"\xff" * 12):
        block = header(b"train/a/x.png", raw_size=digits)
        yield file_case("D37", f"a size of {digits!r}", "a.tar", tar(block), ())
    for text in (b"-5", b"99999999999999999999999999", b"0x10", b"1e3", b""):
        body = b" size=" + text + b"\n"
        body = str(len(body) + 2).encode() + body
        spoilt = member("h", body, b"x") + member("train/a/y.png", picture(99))
        yield file_case("D37", f"an extended size of {text.decode()!r}", "a.tar", tar(spoilt), ())
    lines = member("h", b"5 a=\n" * 200_000, b"x") + header(b"l", kind=b"2")
    yield file_case("D37", "an extended header of 200,000 lines", "a.tar", tar(lines), ("6 training",), 0)
    # CVE-2025-13462: a long name, and a member of the old type whose short name makes a folder of it.
    old = member("h", b"train/a/" + b"l" * 200 + b".png\0", b"L") + header(b"train/a/", 512, kind=b"\0") + b"x" * 512
    yield file_case("D37", "CVE-2025-13462", "a.tar", tar(old), ())
    yield file_case("D37", "headers of headers, never a member", "a.tar.gz", _repeated(header(b"h", kind=b"x"), 10**6))
    for name, size, offset in (
        ("2**62", 2**62, 0),
        ("60 GB", 60 * 2**30, 0),
        ("0", 0, 2**62),
        ("2**64-1", 2**64 - 1, 2**64 - 1),
    ):
        yield file_case("D37", f"a zip64 directory of {name} at {offset}", "a.zip", _zip64(size, offset), ())
    yield file_case("D37", "a zip64 member of 2**62 bytes", "a.zip", _zip64_member, ())
    yield file_case(
        "D37",
        "a zip's directory before its beginning",
        "a.zip",
        _zip()[:-10] + struct.pack("<LLH", 10**6, 0, 0)[-10:],
        (),
    )


def _zip64(size: int, offset: int) -> bytes:
    """A good zip whose zip64 end record lies, while the plain one does not."""
    good = _zip()
    end = good.rindex(b"PK\5\6")
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10, 10, size, offset)
    return good[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + good[end:]


def _zip64_member() -> bytes:
    """Sizes of 2**32 - 1 stand for those in the extra field (4.5.3)."""
    data = deflated(b"x")
    extra = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    line = bytearray(entry(b"train/a/x.png", 0, 2**32 - 1, 2**32 - 1, 0))
    line[30:32] = struct.pack("<H", len(extra))
    start = local(b"train/a/x.png", 0, 2**32 - 1, 2**32 - 1) + data
    return start + line + extra + zip_end(1, len(line) + len(extra), len(start))


# --- 38: bombs ---


def _repeated(data: bytes, times: int) -> bytes:
    """A gzip of so many copies, made without packing them all: a fully flushed block may stand any number of times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    per_block = max(1, min(times, 16 * MB // len(data)))
    block = packer.compress(data * per_block) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * (times // per_block) + b"\3\0" + bytes(8)


def _bombs() -> Iterator[FaultCase]:
    zeros = bytes(64 * MB)
    yield file_case("D38", "10 GB of zeros in gzip", "a.tar.gz", lambda: _repeated(bytes(MB), 10_240), ("to 1",))
    xz = functools.cache(lambda: lzma.compress(zeros, preset=0))
    yield file_case("D38", "10 GB of zeros in xz", "a.tar.xz", lambda: xz() * 160, ("to 1",))
    yield file_case("D38", "10 GB of zeros in bzip2", "a.tar.bz2", lambda: bz2.compress(zeros) * 160, ("to 1",))
    head = header(b"train/a/x.txt", raw_size=_binary(10 * 2**30))
    yield file_case(
        "D38",
        "a member of 10 GB",
        "a.tar.gz",
        lambda: gzip.compress(head) + _repeated(bytes(MB), 10_240),
        ("GB in all",),
    )
    for name in ("x.txt", "x.png"):
        big = header(f"train/a/{name}".encode(), 64 * MB)
        gz = functools.cache(lambda b=big: gzip.compress(b) + gzip.compress(zeros))
        yield file_case("D38", f"160 times 64 MB of zeros called {name}, gzip", "a.tar.gz", gz() * 160, ())
        yield file_case(
            "D38", f"160 times 64 MB of zeros called {name}, xz", "a.tar.xz", (lzma.compress(big) + xz()) * 160, ()
        )
    yield file_case(
        "D38",
        "a picture of a little over 128 MB",
        "a.tar.gz",
        lambda: gzip.compress(header(b"train/a/x.png", 128 * MB + 1)),
        ("ends too early",),
    )
    yield file_case("D38", "ten members of 64 MB that are no pictures", "a.tar", _large_junk, ("a complete image",))
    yield file_case("D38", "zips in a zip in a zip", "a.zip", _nested_zips, ("images, such as PNG or JPEG",))
    yield file_case("D38", "zip entries that overlap", "a.zip", _overlapping, ("overlap",))
    yield file_case("D38", "zip entries of the same place", "a.zip", _same_place, ())
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield file_case("D38", f"a zip of method {method}, 256 MB", "a.zip", _methods(method), ("method",))
    for claimed in (1, 40 * MB + 1):
        yield file_case("D38", f"40 MB that say they are {claimed:,} bytes", "a.zip", _false_size(claimed), ())
    yield file_case("D38", "a million empty members", "a.tar.gz", _million, ("more than 100,000 members",))
    yield file_case("D38", "a million folders", "a.tar.gz", lambda: _repeated(header(b"train/", kind=b"5"), 10**6), ())
    yield file_case(
        "D38", "a million empty members in a zip", "a.zip", lambda: _many_entries(10**6), ("more than 300,000 members",)
    )
    yield file_case(
        "D38",
        "900,000 of the shortest names in a zip",
        "a.zip",
        lambda: _many_entries(900_000),
        ("more than 300,000 members",),
    )
    yield file_case("D38", "names of a gigabyte", "a.tar.gz", _long_names, ("megabytes of names",))
    yield file_case("D38", "a dictionary of 1.5 GB in xz", "a.tar.xz", _huge_dictionary, ("Memory usage limit",))
    yield file_case("D38", "a million empty gzip members", "a.tar.gz", lambda: gzip.compress(b"") * 10**6, ())
    yield file_case("D38", "100,000 empty xz streams", "a.tar.xz", lambda: lzma.compress(b"") * 100_000, ())
    yield file_case(
        "D38",
        "a gzip whose own name is 100 MB",
        "a.tar.gz",
        lambda: b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * (100 * MB),
        (),
    )


def _large_junk() -> bytes:
    return b"".join(header(f"train/{'ab'[i % 2]}/{i}.png".encode(), 64 * MB) + bytes(64 * MB) for i in range(10)) + END


def _nested_zips() -> bytes:
    inner = zeros = deflated(bytes(32 * MB))
    inner = local(b"0.dll", zlib.crc32(bytes(32 * MB)), len(zeros), 32 * MB) + zeros
    inner += entry(b"0.dll", zlib.crc32(bytes(32 * MB)), len(zeros), 32 * MB, 0) + zip_end(1, 51, len(inner))
    for _ in range(2):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(16):
                archive.writestr(f"lib {number:x}.zip", inner)
        inner = file.getvalue()
    return inner


def _overlapping(count: int = 8) -> bytes:
    """As in https://www.bamsoftware.com/hacks/zipbomb/: each quotes the next one's header and shares its bytes."""
    plain = bytes(16 * MB)
    packed, lines = deflated(plain), b""
    for i in reversed(range(count)):
        name, crc = b"train/a/%d.png" % i, zlib.crc32(plain)
        head = local(name, crc, len(packed), len(plain))
        lines = entry(name, crc, len(packed), len(plain), i * (5 + len(head))) + lines
        packed, plain = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + head + packed, head + plain
    body = packed[5:]  # the outermost quote is nobody's
    return body + lines + zip_end(count, len(lines), len(body))


def _same_place() -> bytes:
    data = deflated(picture(99))
    body = local(b"train/a/x.png", zlib.crc32(picture(99)), len(data), len(picture(99))) + data
    line = entry(b"train/a/x.png", zlib.crc32(picture(99)), len(data), len(picture(99)), 0)
    return body + line + line.replace(b"x.png", b"y.png") + zip_end(2, 2 * len(line), len(body))


def _methods(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("train/a/x.png", bytes(256 * MB))
    data = file.getvalue()
    return data.replace(struct.pack("<L", 256 * MB), struct.pack("<L", 2 * MB))  # says that it is 2 MB


def _false_size(claimed: int) -> bytes:
    plain = bytes(40 * MB)
    packed, crc = deflated(plain), zlib.crc32(plain)
    body = local(b"train/a/x.png", crc, len(packed), claimed) + packed
    line = entry(b"train/a/x.png", crc, len(packed), claimed, 0)
    return body + line + zip_end(1, len(line), len(body))


def _numbered(start: int, count: int) -> bytes:
    """Headers of empty members, each of its own name, without a loop over them."""
    blocks = np.tile(np.frombuffer(header(b"train/a/0000000.txt"), np.uint8), (count, 1))
    digits = (np.arange(start, start + count)[:, None] // 10 ** np.arange(6, -1, -1)) % 10
    blocks[:, 8:15] += digits.astype(np.uint8)
    sums = int(header(b"train/a/0000000.txt")[148:154], 8) + digits.sum(axis=1)
    blocks[:, 148:154] = 48 + (sums[:, None] // 8 ** np.arange(5, -1, -1)) % 8
    return blocks.tobytes()


def _million() -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(_numbered(start, 10_000)) for start in range(0, 10**6, 10_000)]
    return b"".join((*parts, packer.compress(END), packer.flush()))


def _many_entries(count: int) -> bytes:
    """A directory alone: its entries all name the same empty member's place."""
    lines = [entry(b"%x" % i, 0, 0, 0, 0, method=0) for i in range(count)]
    directory, body = b"".join(lines), local(b"0", 0, 0, 0, method=0)
    return body + directory + zip_end(count, len(directory), len(body))


def _long_names() -> bytes:
    """20,000 names of 4,000 letters, in a fifth of that."""
    packer, noise = zlib.compressobj(1, wbits=31), np.random.default_rng(0).integers(97, 99, (20_000, 4000), np.uint8)
    blocks = (member("h", letters.tobytes(), b"L") + header(b"n") for letters in noise)
    return b"".join((*map(packer.compress, blocks), packer.compress(END), packer.flush()))


def _huge_dictionary() -> bytes:
    """A small file whose header asks for 1.5 GB, as `xz --lzma2=dict=1536MiB` writes it."""
    data = bytearray(lzma.compress(tar(), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    size = (data[12] + 1) * 4  # of the block header behind the stream's, which ends with a CRC of its own
    at = data.index(b"\x21\x01", 12) + 2
    data[at] = 37  # 3 * 2**29: bits as in section 5.3.1 of the format
    data[12 + size - 4 : 12 + size] = struct.pack("<L", zlib.crc32(data[12 : 12 + size - 4]))
    return bytes(data)


# --- 39: damage; 40: what else may be in one ---


def _cut(mode: str, where: str) -> bytes:
    """A good archive cut at a place that has a name."""
    whole = tar()
    places = {
        "in the first header": 300, "after the first header": 512, "in a picture": 600,
        "between two members": len(member("train/a/0.png", picture(0))), "before the end mark": len(whole) - len(END),
    }  # fmt: skip
    if where in places:
        return _packed(whole[: places[where]], mode)
    data = _packed(whole, mode)
    return data[: {"its last byte": -1, "its last 8 bytes": -8, "its half": -len(data) // 2, "all but 20": 20}[where]]


def _packed(data: bytes, mode: str) -> bytes:
    if mode == "gz":
        return gzip.compress(data)
    return {"": data, "bz2": bz2.compress(data), "xz": lzma.compress(data)}[mode]


def _damage() -> Iterator[FaultCase]:
    for mode in ("", "gz", "bz2", "xz"):
        file = "a.tar" + (f".{mode}" if mode else "")
        for where in (
            "in the first header",
            "after the first header",
            "in a picture",
            "between two members",
            "before the end mark",
        ):
            yield file_case("D39", f"{file} cut {where}", file, _cut(mode, where), CUT)
        for where in ("its last byte", "its last 8 bytes", "its half", "all but 20") if mode else ():
            yield file_case("D39", f"{file} without {where}", file, _cut(mode, where), ("damaged",))
        if mode:
            yield file_case(
                "D39", f"{file} with a flipped bit", file, _flipped(_packed(tar(), mode), 0.7), ("damaged",)
            )
    for share in (0.0, 0.001, 0.3, 0.7, 0.98, 0.9999):
        yield file_case("D39", f"a zip cut at {share:.2%}", "a.zip", _zip()[: int(len(_zip()) * share)], ())
    yield file_case("D39", "a flipped bit in a zip's member", "a.zip", _flipped(_zip(), 0.3), ("damaged",))
    yield file_case("D39", "a header's wrong sum", "a.tar", _flipped(tar(header(b"x")), 0, -1536), ("damaged",))
    yield file_case("D39", "a gzip's wrong CRC", "a.tar.gz", _flipped(gzip.compress(tar()), 0, -6), ("damaged",))
    yield file_case("D39", "a gzip's wrong length", "a.tar.gz", _flipped(gzip.compress(tar()), 0, -2), ("damaged",))
    yield file_case("D39", "junk after a gzip", "a.tar.gz", gzip.compress(tar()) + b"junk" * 9, ("damaged",))
    yield file_case("D39", "junk after an xz", "a.tar.xz", lzma.compress(tar()) + b"junk" * 9, ("damaged",))
    yield file_case(
        "D39", "junk in a gzip's header", "a.tar.gz", b"\x1f\x8b\x09\xff" + gzip.compress(tar())[4:], ("damaged",)
    )
    yield file_case("D39", "a gzip of several members is whole", "a.tar.gz", _several, ("final",), 0)
    yield file_case(
        "D39",
        "an xz of several streams is whole",
        "a.tar.xz",
        lzma.compress(tar()[:700]) + bytes(8) + lzma.compress(tar()[700:]),
        ("final",),
        0,
    )
    for flags in (1, 0x41):
        yield file_case(
            "D39", f"an encrypted zip (flags {flags:#x})", "a.zip", _encrypted(flags), ("an encrypted member",)
        )
    inner = {"an archive in an archive": _zip(), "a tar in a zip": tar()}
    for name, data in inner.items():
        yield file_case("D39", name, "a.zip", _only("inner.tar", data), ("none, and 1 other file (inner.tar",))
    again = {"": "train/a/0.png", " under another spelling": "./train//a/./0.png"}
    for name, member_name in again.items():
        data = tar(member(member_name, picture(99)))
        yield file_case("D39", f"a repeated member{name}, tar", "a.tar", data, ("6 training",), 0)
    yield file_case("D39", "a repeated member, zip", "a.zip", _zip(("train/a/0.png", picture(99))), ("6 training",), 0)
    names = "names that differ in case only"
    yield file_case("D39", f"{names}, tar", "a.tar", tar(member("train/a/0.PNG", picture(99))), ("7 training",), 0)
    yield file_case("D39", f"{names}, zip", "a.zip", _zip(("train/a/0.PNG", picture(99))), ("7 training",), 0)
    yield file_case("D39", "folders that differ in case hold different files", "a.tar", _two_cases, ("4 classes",), 0)
    for name, data in (
        ("nothing", b""),
        ("a page", b"<!doctype html><html>" + b" " * 2000),
        ("7-Zip", b"7z\xbc\xaf\x27\x1c" + b"x" * 600),
    ):
        yield file_case("D39", f"{name} instead of an archive", "a.tar.gz", data, ())
    yield FaultCase(
        "D39", "a missing archive", lambda sandbox: train_on(sandbox.inputs / "none.tar.gz"), 3, ("No such file",)
    )
    yield FaultCase(
        "D40",
        "a batch that is a pickle of code",
        lambda sandbox: _pickled(sandbox, True),
        3,
        ("CIFAR-10's own files", "--data cifar10"),
    )
    yield FaultCase(
        "D40",
        "a pickle of code among images, called one",
        lambda sandbox: _pickled(sandbox, False),
        3,
        ("a complete image",),
    )


def _flipped(data: bytes, share: float, at: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at or int(len(data) * share)] ^= 1
    return bytes(changed)


def _several() -> bytes:
    whole = tar()
    return b"".join(gzip.compress(whole[start : start + 700]) for start in range(0, len(whole), 700))


def _encrypted(flags: int) -> bytes:
    data = bytearray(_zip())
    data[6:8] = data[data.index(b"PK\1\2") + 8 : data.index(b"PK\1\2") + 10] = struct.pack("<H", flags)
    return bytes(data)


def _only(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


def _two_cases() -> bytes:
    return tar(*(member(f"{split}/{kind}/9{kind}.png", picture(n)) for n, (split, kind) in enumerate(
        (split, kind) for split in ("train", "test") for kind in "AB")))  # fmt: skip


class _Payload:
    """Unpickled, it touches the canary."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.canary}",)


def _pickled(sandbox: Sandbox, alone: bool) -> list[object]:
    data = pickle.dumps(_Payload(str(sandbox.canary)))
    path = sandbox.inputs / "cifar-10-python.tar.gz"
    tree = {"cifar-10-batches-py/data_batch_1": data} if alone else {**classes(), "train/a/9.png": data}
    path.write_bytes(gzip.compress(tar(tree=tree)))
    return train_on(path)


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the cases of D."""
    cases = [*_names(), *_links(), *_sizes(), *_bombs(), *_damage()]
    return [check_cases("D archives", cases[::4] if quick else cases)]
