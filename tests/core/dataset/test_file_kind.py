"""A file that is no readable image is named for what it is, with what to do about it."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset.file_kind import describe_bytes
from tests.core.dataset.helpers import encode


def numpy_bytes(save: object) -> bytes:
    file = io.BytesIO()
    assert callable(save)
    save(file, np.zeros(3))
    return file.getvalue()


def zip_bytes(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
KINDS = {
    "lfs": (LFS, "a Git LFS pointer: get the file itself with git lfs pull"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC: convert it to JPEG or PNG"),
    "heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC"),
    "avif": (encode(Image.new("RGB", (8, 8)), "AVIF"), "an AVIF: convert it to JPEG or PNG"),
    "mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video (MP4 or QuickTime)"),
    "html": (b"\n<!DOCTYPE html>\n<html><svg></svg></html>", "an HTML page"),
    "svg": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "xml": (b"<?xml version='1.0'?>\n<annotation/>", "an XML file"),
    "pdf": (b"%PDF-1.7", "a PDF"),
    "npy": (numpy_bytes(np.save), "a NumPy array (.npy)"),
    "npz": (numpy_bytes(np.savez), "a NumPy archive (.npz)"),
    "pth": (zip_bytes("archive/data.pkl", "archive/version"), "a PyTorch file (.pth)"),
    "zip": (zip_bytes("a.png"), "a zip archive"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle of Python"),
    "parquet": (b"PAR1\x15\x04", "a Parquet table"),
    "tfrecord": (b"\x90\0\0\0\0\0\0\0\x12\x34\x56\x78\n\x8d\x01", "a TFRecord file"),
    "data.yaml": (
        b"train: ../train/images\nval: ../val/images\n\nnc: 2\nnames: ['cat', 'dog']\n",
        "a data.yaml of YOLO",
    ),
    "yolo labels": (b"0 0.5 0.5 0.25 0.25\n12 0.1 0.2 0.3 0.4\n", "a text file with boxes"),
    "json": (b'{"images": []}', "a JSON file"),
    "csv": (b"file,label\na.png,cat\n", "a text file"),
    "text with accents": ("naïve Bäume".encode(), "a text file"),
    "nothing": (b"", "an empty file"),
    "random": (bytes(range(128, 256)), "no image, or a truncated header"),
    "jpeg": (encode(Image.new("RGB", (8, 8)), "JPEG")[:20], "a JPEG with a damaged or truncated header"),
    "avif of a collection": (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF"),
    "tga": (encode(Image.new("RGB", (8, 8)), "TGA"), "a TGA: convert it to JPEG or PNG"),
    "tga with a palette": (encode(Image.new("P", (8, 8)), "TGA"), "a TGA"),
    "pcx": (encode(Image.new("RGB", (8, 8)), "PCX"), "a PCX"),
    "sgi": (encode(Image.new("RGB", (8, 8)), "SGI"), "an SGI image"),
    "pam": (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\xff", "a PAM"),
    "qoi": (b"qoif\0\0\0\x08\0\0\0\x08\3\0", "a QOI"),
    "icon": (b"\0\0\1\0\1\0", "an ICO icon"),
}


@pytest.mark.parametrize(("data", "expected"), KINDS.values(), ids=KINDS.keys())
def test_a_file_is_named_for_what_it_is(data: bytes, expected: str) -> None:
    assert describe_bytes(data).startswith(expected)
