"""Download one file whose md5 is known from the first mirror that has it; a partial download is resumed.

In: mirrors and a path. Out: the complete file at that path, never a part of it.

The bytes received so far are in `.NAME.scsuite.part` next to it. A lock file lets one process at a time download.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from scsuite.core.dataset.split import Progress
from scsuite.core.errors import InputError, OutputError, one_line

TIMEOUT_SECONDS = 15.0  # to connect, and between two reads
_MAX_ATTEMPTS = 4  # at a mirror that stops midway; each resumes where the last one stopped
_CHUNK = 2**20  # bytes
_MAX_BYTES = 2**30  # so that a mirror that never stops sending fills no disk
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)  # urllib's own errors are OSErrors


class _MirrorError(Exception):
    """This mirror does not deliver the file; the text says why."""


class _InterruptedError(_MirrorError):
    """The mirror answered and then stopped: another attempt may help."""


def fetch(urls: Sequence[str], target: Path, md5: str, progress: Progress, *, hint: str) -> None:
    """Download the file with this md5 to `target`.

    Raises InputError, with `hint`, when no mirror delivers it; OutputError when it cannot be written.
    """
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists() and file_md5(target) == md5:
                return  # another process downloaded it while this one waited
            failures = _fetch_any(urls, target, md5, progress)
    except OSError as error:
        expected, advice = "a folder that can be written", "Free some space, or choose another with --data-dir."
        raise OutputError("download", target, expected=expected, found=error.strerror or error, hint=advice) from None
    if failures is not None:
        expected = f"the file, or a mirror that has {target.name}"
        raise InputError("download", target, expected=expected, found=f"neither ({'; '.join(failures)})", hint=hint)


def _fetch_any(urls: Sequence[str], target: Path, md5: str, progress: Progress) -> list[str] | None:
    """Return None on success, otherwise each mirror's reason."""
    part = target.with_name(f".{target.name}.scsuite.part")  # not the name that a browser would give it
    failures = []
    for url in urls:
        try:
            _fetch_from(url, part, md5, progress)
        except _MirrorError as error:
            failures.append(f"{url.partition('?')[0]}: {error}")
        else:
            part.replace(target)
            return None
    return failures


def file_md5(path: Path) -> str:
    """Return the md5 of a file in hex; it detects damage, not forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch_from(url: str, part: Path, md5: str, progress: Progress) -> None:
    """Complete `part` from this mirror; remove a part whose md5 is wrong. Raises _MirrorError."""
    is_resumed = part.exists() and part.stat().st_size > 0
    if not url.lower().startswith(("http://", "https://", "file://")):
        raise _MirrorError("not an http, https or file address")
    for attempts_left in reversed(range(_MAX_ATTEMPTS)):
        try:
            _transfer(url, part, progress)
            break
        except _InterruptedError:
            if not attempts_left:
                raise
    received_md5 = file_md5(part)
    if received_md5 == md5:
        return
    part.unlink()
    if is_resumed:  # the old part may be of another file: start again without it
        _fetch_from(url, part, md5, progress)
        return
    raise _MirrorError(f"a file of md5 {received_md5}, not {md5}")


def _transfer(url: str, part: Path, progress: Progress) -> None:
    num_received = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "scsuite", "Accept-Encoding": "identity"}
    if num_received:
        headers["Range"] = f"bytes={num_received}-"
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the caller has checked the scheme
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise _MirrorError(f"HTTP {error.code} {error.reason}") from None
        if not num_received:
            raise _MirrorError("HTTP 416") from None
        return  # nothing is left to send: the part is complete, or too long, and then its md5 is wrong
    except _NETWORK_ERRORS as error:
        raise _MirrorError(_reason(error)) from None
    with response:
        is_continued = num_received and response.status == 206 and _range_start(response) == num_received
        if response.status == 206 and not is_continued:
            part.unlink(missing_ok=True)
            raise _InterruptedError("a range that was not requested")
        length = response.headers.get("Content-Length", "")
        start = num_received if is_continued else 0  # a server may ignore the range and send the whole file
        total = start + int(length) if length.isdigit() else None
        if total is not None and total > _MAX_BYTES:
            raise _MirrorError(f"a file of {total:,} bytes")
        with part.open("ab" if is_continued else "wb") as file:
            _copy(response, file, start, total, progress)


def _range_start(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None


def _copy(response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int | None, progress: Progress) -> None:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except _NETWORK_ERRORS as error:
            raise _InterruptedError(_reason(error)) from None
        if not chunk:
            break
        file.write(chunk)
        done += len(chunk)
        if done > _MAX_BYTES:
            Path(file.name).unlink()  # nothing that a later attempt could resume
            raise _MirrorError("a file without end")
        progress("Downloading", done, total)
    if total is not None and done < total:
        raise _InterruptedError(f"stopped after {done:,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return one_line((cause.strerror if isinstance(cause, OSError) else None) or cause, 100)
