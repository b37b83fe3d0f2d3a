"""A headless Chromium that tests look at pages with: python -m tests.browser PAGE.html FOLDER takes screenshots.

In: a page, the size of a window. Out: values of JavaScript expressions, screenshots, a PDF, and the requests of a page.
Speaks the DevTools protocol over two pipes, so that no package and no port is needed.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
# The browser reads from file descriptor 3 and writes to 4, which may be in use here: the child places them.
START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for pipe, number in zip(pipes, (3, 4)):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
WIDTHS = (390, 800, 1400)  # pixels: a telephone, a tablet, a desk


class Browser:
    """One page in one browser; `requests` holds the addresses that pages asked for, data URIs apart."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.requests: list[str] = []
        self._last_id, self._buffer, self._session = 0, b"", ""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [PROGRAM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        start = [sys.executable, "-I", "-c", START, str(to_browser), str(from_browser), *command]
        self._process = subprocess.Popen(
            start, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next_message()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 2**20)
            assert part, "the browser ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)
        return message

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load a page in a window of this width, and wait until it is complete."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self.value("location.protocol + document.readyState") != "file:complete":
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; the page's own policy does not apply to it."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write an image of the complete page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        """Write the page as it is printed."""
        answer = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True, paperWidth=8.27,
                           paperHeight=11.69)  # fmt: skip
        path.write_bytes(base64.b64decode(answer["data"]))


def main() -> None:
    """Take screenshots of a page at all widths, light and dark, and print it."""
    page, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                browser.open(page, width, scheme)
                browser.screenshot(folder / f"{page.stem}-{width}-{scheme}.png")
        browser.pdf(folder / f"{page.stem}.pdf")


if __name__ == "__main__":
    main()
