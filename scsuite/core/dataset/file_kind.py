"""Name what a file is, for the message about a file that is no image or one of a format that is not read.

In: the bytes of a file, at least its first few thousand. Out: a phrase such as "a Git LFS pointer".
"""

import codecs
import re

_HEAD_BYTES = 4096  # all that is looked at
_TO_JPEG = "convert it to JPEG or PNG"
_VIDEO = "extract its frames as images"
UNKNOWN = "no image, or a truncated header"

# Bytes at an offset and what they mean; the first match counts.
_SIGNATURES = (
    (0, b"version https://git-lfs.github.com/", "a Git LFS pointer: get the file itself with git lfs pull"),
    (0, b"\xff\xd8\xff", "a JPEG with a damaged or truncated header"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG with a damaged or truncated header"),
    (0, b"GIF8", "a GIF with a damaged or truncated header"),
    (0, b"II*\0", "a TIFF of a kind that is not read, or with a damaged header: convert it to PNG"),
    (0, b"MM\0*", "a TIFF of a kind that is not read, or with a damaged header: convert it to PNG"),
    (0, b"II+\0", "a BigTIFF of a kind that is not read, or with a damaged header: convert it to PNG"),
    (0, b"MM\0+", "a BigTIFF of a kind that is not read, or with a damaged header: convert it to PNG"),
    (0, b"%PDF", "a PDF: save its pages as images"),
    (0, b"%!PS", f"an EPS or PostScript file: {_TO_JPEG}"),
    (0, b"\xc5\xd0\xd3\xc6", f"an EPS file: {_TO_JPEG}"),
    (0, b"\0\0\1\0", f"an ICO icon: {_TO_JPEG}"),
    (0, b"\0\0\2\0\1\0", f"a CUR cursor: {_TO_JPEG}"),
    (0, b"8BPS", f"a PSD of Photoshop: {_TO_JPEG}"),
    (0, b"gimp xcf", f"an XCF of GIMP: {_TO_JPEG}"),
    (0, b"\0\0\0\x0cjP  ", f"a JPEG 2000: {_TO_JPEG}"),
    (0, b"\xff\x4f\xff\x51", f"a JPEG 2000: {_TO_JPEG}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL: {_TO_JPEG}"),
    (0, b"\xff\x0a", f"a JPEG XL: {_TO_JPEG}"),
    (0, b"v/1\1", f"an OpenEXR image: {_TO_JPEG}"),
    (0, b"#?RADIANCE", f"a Radiance HDR image: {_TO_JPEG}"),
    (0, b"P7\n", f"a PAM: {_TO_JPEG}"),
    (0, b"PF\n", f"a PFM of colors: {_TO_JPEG}"),
    (0, b"qoif", f"a QOI: {_TO_JPEG}"),
    (0, b"BPG\xfb", f"a BPG: {_TO_JPEG}"),
    (0, b"FLIF", f"a FLIF: {_TO_JPEG}"),
    (0, b"\1\xda\0", f"an SGI image: {_TO_JPEG}"),
    (0, b"\1\xda\1", f"an SGI image: {_TO_JPEG}"),
    (0, b"icns", f"an ICNS icon: {_TO_JPEG}"),
    (0, b"\xd7\xcd\xc6\x9a", f"a WMF drawing: {_TO_JPEG}"),
    (40, b" EMF", f"an EMF drawing: {_TO_JPEG}"),
    (0, b"IIRO", f"a raw photo: {_TO_JPEG}"),
    (0, b"IIU\0", f"a raw photo: {_TO_JPEG}"),
    (0, b"FUJIFILM", f"a raw photo: {_TO_JPEG}"),
    (0, b"SIMPLE  =", f"a FITS image: {_TO_JPEG}"),
    (0, b"DDS ", f"a DDS texture: {_TO_JPEG}"),
    (0, b"\x93NUMPY", "a NumPy array (.npy): save its images as PNG"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file: save its images as PNG"),
    (0, b"CDF\1", "a NetCDF file: save its images as PNG"),
    (0, b"MATLAB 5.0", "a MATLAB file (.mat): save its images as PNG"),
    (0, b"PAR1", "a Parquet table: save its images as PNG"),
    (0, b"ARROW1", "an Arrow table: save its images as PNG"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
    (0, b"BZh", "a bzip2 archive: unpack it"),
    (0, b"\xfd7zXZ\0", "an xz archive: unpack it"),
    (0, b"(\xb5/\xfd", "a Zstandard archive: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (0, b"Rar!", "a RAR archive: unpack it"),
    (0, b"\x1aE\xdf\xa3", f"a video (Matroska or WebM): {_VIDEO}"),
    (0, b"\0\0\1\xba", f"a video (MPEG): {_VIDEO}"),
    (0, b"FLV\1", f"a video (FLV): {_VIDEO}"),
    (0, b"OggS", "an Ogg audio or video file"),
    (0, b"ID3", "an MP3 audio file"),
    (0, b"fLaC", "a FLAC audio file"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a Windows program"),
    (0, b"BM", "a BMP with a damaged or truncated header"),
    (0, b"\x80\2\x8a\nl\xfc\x9cF\xf9", "a PyTorch file (.pth)"),
    (0, b"\x80\2", "a pickle of Python: save its images as PNG"),
    (0, b"\x80\3", "a pickle of Python: save its images as PNG"),
    (0, b"\x80\4", "a pickle of Python: save its images as PNG"),
    (0, b"\x80\5", "a pickle of Python: save its images as PNG"),
    (4, b"ftypavi", f"an AVIF: {_TO_JPEG}"),
    (4, b"ftyphei", f"a HEIC: {_TO_JPEG}"),
    (4, b"ftyphev", f"a HEIC: {_TO_JPEG}"),
    (16, b"mif1avif", f"an AVIF: {_TO_JPEG}"),
    (4, b"ftypmif1", f"a HEIC: {_TO_JPEG}"),
    (4, b"ftypmsf1", f"a HEIC: {_TO_JPEG}"),
    (4, b"ftypcrx", f"a raw photo (CR3): {_TO_JPEG}"),
    (4, b"ftyp", f"a video (MP4 or QuickTime): {_VIDEO}"),
    (4, b"moov", f"a video (QuickTime): {_VIDEO}"),
    (8, b"AVI ", f"a video (AVI): {_VIDEO}"),
    (8, b"WAVE", "a WAV audio file"),
    (8, b"WEBP", "a WebP with a damaged or truncated header"),
    (8, b'{"', "a safetensors file"),
    (128, b"DICM", f"a DICOM image: {_TO_JPEG}"),
    (257, b"ustar", "a tar archive: unpack it"),
    (344, b"n+1\0", "a NIfTI volume: save its slices as PNG"),
    (344, b"ni1\0", "a NIfTI volume: save its slices as PNG"),
)
_TGA_TYPES = (b"\0\2", b"\0\3", b"\0\n", b"\0\v", b"\1\1", b"\1\t")  # color map or none, and kind of pixels
_ZIP_MEMBERS = (
    (b"data.pkl", "a PyTorch file (.pth)"),
    (b".npy", "a NumPy archive (.npz): save its images as PNG"),
    (b"word/", "a Word document"),
    (b"xl/", "an Excel table"),
    (b"ppt/", "a PowerPoint file"),
)
# What a text, in lower case, has in it.
_TEXTS = tuple(
    (re.compile(pattern, re.MULTILINE | re.DOTALL), description)
    for pattern, description in (
        (r"\A<!doctype html|<html[\s>]", "an HTML page, as a failed download leaves it: download the image again"),
        (r"<svg[\s>]", f"an SVG drawing: {_TO_JPEG}"),
        (r"\A<", "an XML file"),
        (r"\Ap[1-7f]\s", "a PNM with a damaged or truncated header"),
        (r"\A[{\[]", "a JSON file"),
        (r"^(names|nc)\s*:.*^(names|nc|train|val)\s*:|^(train|val)\s*:.*^(names|nc)\s*:", "a data.yaml of YOLO"),
        (r"\A(\d+( -?[\d.e-]+){4,}\s*)+\Z", "a text file with boxes, as YOLO has them"),
        (r"\A\Z", "a file of white space"),
        (r"", "a text file"),
    )
)


def describe_bytes(data: bytes) -> str:
    """Return what a file is by its content, with what to do about it; "no image, ..." for an unknown one."""
    head = data[:_HEAD_BYTES]
    if not head:
        return "an empty file"
    signed = (text for offset, mark, text in _SIGNATURES if head.startswith(mark, offset))
    return next(signed, None) or _describe_container(head) or _describe_text(head) or UNKNOWN


def _describe_container(head: bytes) -> str | None:
    """Return what a TGA, PCX, TFRecord file or zip archive is, or None for another file."""
    if len(head) > 18 and head[1:3] in _TGA_TYPES and head[16] in (8, 15, 16, 24, 32) and not any(head[3:5]):
        return f"a TGA: {_TO_JPEG}"
    if head[:1] == b"\n" and head[1:2] in b"\0\2\3\4\5" and head[2:3] in b"\0\1":
        return f"a PCX: {_TO_JPEG}"
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return next((text for name, text in _ZIP_MEMBERS if name in head), "a zip archive: unpack it")
    # A TFRecord has a length, its checksum, and a message that starts with field 1.
    if 0 < int.from_bytes(head[:8], "little") < 2**32 and head[12:13] == b"\n":
        return "a TFRecord file: save its images as PNG"
    return None


def _describe_text(head: bytes) -> str | None:
    """Return what kind of text it is, or None for bytes that are no text."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut in two
    except UnicodeDecodeError:
        return None
    if any(ord(character) < 32 and not character.isspace() for character in text):
        return None
    text = text.strip().lower()
    return next(description for pattern, description in _TEXTS if pattern.search(text))
