"""Downloads from a local server: resumed, verified, continued at the next mirror, clear when nothing answers."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from scsuite.core.dataset import download
from scsuite.core.dataset.download import fetch
from scsuite.core.errors import InputError, OutputError

BODY = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()


def no_progress(_text: str, _done: int, _total: int | None) -> None:
    """Ignore the progress."""


@dataclass
class Mirror:
    """The server's file and its faults."""

    body: bytes = BODY
    honours_range: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes of each of the first answers
    status: int = 200
    shift: int = 0  # of the range that it sends, relative to the requested one
    requested_ranges: list[str | None] = field(default_factory=list)  # the Range of each request
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requested_ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.honours_range else 0
        status = 206 if start else 200
        if start >= len(self.body):
            status = 416
        if self.status != 200:
            status = self.status
        request.send_response(status)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start + self.shift}-{len(self.body) - 1}/{len(self.body)}")
        start += self.shift if status == 206 else 0
        piece = self.body[start:] if status < 400 else b""
        request.send_header("Content-Length", str(len(piece)))
        request.end_headers()
        request.wfile.write(piece[: self.breaks_after.pop(0)] if self.breaks_after else piece)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    behaviour = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        behaviour.url = f"http://127.0.0.1:{server.server_port}/file.tar.gz?download=1"
        yield behaviour
        server.shutdown()
        thread.join()


def closed_url() -> str:
    """An address without a server."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{plug.getsockname()[1]}/file"


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_complete_file_arrives_and_progress_counts_its_bytes(tmp_path: Path, mirror: Mirror) -> None:
    calls: list[tuple[str, int, int | None]] = []
    fetch([mirror.url], tmp_path / "new" / "f", MD5, lambda *call: calls.append(call), hint="")
    assert (tmp_path / "new" / "f").read_bytes() == BODY
    assert files_in(tmp_path / "new") == {"f"}
    assert calls[-1] == ("Downloading", len(BODY), len(BODY))
    assert mirror.requested_ranges == [None]


def test_a_partial_file_is_resumed(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / ".f.scsuite.part").write_bytes(BODY[:1000])
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY
    assert mirror.requested_ranges == ["bytes=1000-"]


def test_the_part_of_a_browser_is_neither_used_nor_removed(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert mirror.requested_ranges == [None]
    assert (tmp_path / "f.part").read_bytes() == BODY[:1000]


def test_an_interrupted_transfer_is_resumed(tmp_path: Path, mirror: Mirror) -> None:
    mirror.breaks_after = [1000, 5000]
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY
    assert mirror.requested_ranges == [None, "bytes=1000-", "bytes=6000-"]


def test_a_server_that_ignores_the_range_is_read_from_the_start(tmp_path: Path, mirror: Mirror) -> None:
    mirror.honours_range = False
    (tmp_path / ".f.scsuite.part").write_bytes(BODY[:1000])
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_that_sends_another_range_is_not_trusted(tmp_path: Path, mirror: Mirror) -> None:
    mirror.shift = 7
    (tmp_path / ".f.scsuite.part").write_bytes(BODY[:1000])
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY
    assert mirror.requested_ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("part", [BODY, BODY + b"too long", b"x" * len(BODY)])
def test_a_part_as_long_as_the_file_is_verified_or_downloaded_again(
    tmp_path: Path, mirror: Mirror, part: bytes
) -> None:
    (tmp_path / ".f.scsuite.part").write_bytes(part)
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY
    assert mirror.requested_ranges == [f"bytes={len(part)}-"] + ([] if part == BODY else [None])


def test_a_part_of_another_file_is_dropped(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / ".f.scsuite.part").write_bytes(b"<html>a login page</html>")
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_wrong_file_is_removed_and_the_next_mirror_used(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "wrong").write_bytes(b"another file")
    urls = [(tmp_path / "wrong").as_uri(), closed_url(), mirror.url]
    fetch(urls, tmp_path / "new" / "f", MD5, no_progress, hint="")
    assert (tmp_path / "new" / "f").read_bytes() == BODY
    assert mirror.requested_ranges == [None]  # the wrong file was not resumed
    assert files_in(tmp_path / "new") == {"f"}


def test_when_no_mirror_has_the_file_one_line_names_each_reason(tmp_path: Path, mirror: Mirror) -> None:
    mirror.status = 404
    (tmp_path / "wrong").write_bytes(b"another file")
    urls = [closed_url(), mirror.url, (tmp_path / "wrong").as_uri(), "gopher://x/y", "http://[bad", "nonsense"]
    with pytest.raises(InputError) as caught:
        fetch(urls, tmp_path / "new" / "f", MD5, no_progress, hint="Do this.")
    text = str(caught.value)
    for words in ("refused", "404", f"not {MD5}", "not an http"):
        assert words in text
    assert text.endswith("Do this.")
    assert "\n" not in text
    assert files_in(tmp_path / "new") == set()


def test_a_mirror_that_keeps_stopping_leaves_its_part(tmp_path: Path, mirror: Mirror) -> None:
    mirror.breaks_after = [100] * 10
    with pytest.raises(InputError, match="stopped after"):
        fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    part = (tmp_path / ".f.scsuite.part").read_bytes()
    assert part == BODY[: len(part)]
    mirror.breaks_after = []
    fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        with pytest.raises(InputError, match="no answer in time"):
            fetch([url], tmp_path / "f", MD5, no_progress, hint="")


def test_a_file_over_the_limit_is_refused(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_MAX_BYTES", 1000)
    with pytest.raises(InputError, match="a file of 300,000 bytes"):
        fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint="")


def test_concurrent_downloads_download_once(tmp_path: Path, mirror: Mirror) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch([mirror.url], tmp_path / "f", MD5, no_progress, hint=""), range(4)))
    assert (tmp_path / "f").read_bytes() == BODY
    assert mirror.requested_ranges == [None]


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="--data-dir") as caught:
        fetch([mirror.url], tmp_path / "file" / "f", MD5, no_progress, hint="")
    assert caught.value.exit_code == 4
