"""Fetching one file whose md5 is known: from the first mirror that has it, resumed where an earlier try stopped.

In: mirrors and a place. Out: the whole file in that place, never a part of it.

What has come so far stands in a sibling, `NAME.part`; a lock beside it lets one process at a time fetch.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from scsuite.core.dataset.base import Progress
from scsuite.core.errors import InputError, OutputError

TIMEOUT_SECONDS = 15.0  # to connect, and between two pieces
_TRIES = 4  # of one mirror that breaks off midway; each goes on from where the last one stopped
_CHUNK = 2**20  # bytes
_BYTES_MAX = 2**30  # a mirror that never stops sending fills no disk
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)  # urllib's own are OSErrors


class _MirrorError(Exception):
    """This mirror does not give the file; the text says why."""


class _BrokenOffError(_MirrorError):
    """The mirror answered and then stopped: worth another try."""


def fetch(urls: Sequence[str], target: Path, md5: str, progress: Progress, *, hint: str) -> None:
    """Put the file with this md5 at `target`.

    Raises InputError, with `hint`, when no mirror gives it; OutputError when it cannot be written.
    """
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists() and file_md5(target) == md5:
                return  # another process fetched it while this one waited
            failures = _fetch_any(urls, target, md5, progress)
    except OSError as error:
        expected, advice = "a folder that can be written", "Free some space, or choose another with --data-dir."
        raise OutputError("download", target, expected=expected, found=error.strerror or error, hint=advice) from None
    if failures is not None:
        expected = f"it there, or a mirror that gives {target.name}"
        raise InputError("download", target, expected=expected, found=f"neither ({'; '.join(failures)})", hint=hint)


def _fetch_any(urls: Sequence[str], target: Path, md5: str, progress: Progress) -> list[str] | None:
    """None when done, else each mirror's reason."""
    part = target.with_name(target.name + ".part")
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
    """The md5 of a file, in hex: it tells damage, not forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch_from(url: str, part: Path, md5: str, progress: Progress) -> None:
    """Complete `part` from this mirror; a part that turns out wrong is removed.

    Raises _MirrorError.
    """
    resumed = part.exists() and part.stat().st_size > 0
    if not url.lower().startswith(("http://", "https://", "file://")):
        raise _MirrorError("not an http, https or file address")
    for tries_left in reversed(range(_TRIES)):
        try:
            _transfer(url, part, progress)
            break
        except _BrokenOffError:
            if not tries_left:
                raise
    found = file_md5(part)
    if found == md5:
        return
    part.unlink()
    if resumed:  # the part of an earlier day may have been the wrong one: once more, from the start
        _fetch_from(url, part, md5, progress)
        return
    raise _MirrorError(f"a file of md5 {found}, not {md5}")


def _transfer(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "scsuite", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - its scheme has been looked at
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise _MirrorError(f"HTTP {error.code} {error.reason}") from None
        if not have:
            raise _MirrorError("HTTP 416") from None
        return  # nothing is left to send: the part is whole, or longer than whole and its md5 will tell
    except _NETWORK_ERRORS as error:
        raise _MirrorError(_reason(error)) from None
    with response:
        goes_on = have and response.status == 206 and _range_start(response) == have
        if response.status == 206 and not goes_on:
            part.unlink(missing_ok=True)
            raise _BrokenOffError("a part that was not asked for")
        length = response.headers.get("Content-Length", "")
        start = have if goes_on else 0  # a server may ignore the range and send the whole file: then from the start
        total = start + int(length) if length.isdigit() else None
        if total is not None and total > _BYTES_MAX:
            raise _MirrorError(f"a file of {total:,} bytes")
        with part.open("ab" if goes_on else "wb") as file:
            _copy(response, file, start, total, progress)


def _range_start(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None


def _copy(response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int | None, progress: Progress) -> None:
    while True:
        try:
            piece = response.read(_CHUNK)
        except _NETWORK_ERRORS as error:
            raise _BrokenOffError(_reason(error)) from None
        if not piece:
            break
        file.write(piece)
        done += len(piece)
        if done > _BYTES_MAX:
            Path(file.name).unlink()  # a GB that no later try goes on from
            raise _MirrorError("a file without end")
        progress("Fetching", done, total)
    if total is not None and done < total:
        raise _BrokenOffError(f"broke off after {done:,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    text = (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(inner).__name__
    return " ".join(text.split())[:100]
