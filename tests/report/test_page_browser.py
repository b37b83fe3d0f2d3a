"""The page in a browser: it fits a telephone, a tablet and a desk, and asks for nothing. Needs Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scsuite.core.runs.comparison import compare
from scsuite.core.runs.train_summary import read_training
from scsuite.report.page import comparison_page, training_page
from tests.browser import PROGRAM, WIDTHS, Browser
from tests.conftest import REPOSITORY
from tests.made_runs import make_evaluation, make_gradcam, make_lr_range, make_training

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
LONG = ("x" * 120, "<script>document.title = 'run'</script>", "a name of many short words " * 6)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of the evidence, one of names that are hard to place, and one of several trainings."""
    folder = tmp_path_factory.mktemp("pages")
    runs = folder / "runs"
    hard = make_training(runs / ("a" * 100), class_names=LONG, data="/data/" + "long-folder-name/" * 12)
    make_evaluation(runs / "e", "a" * 100, class_names=LONG)
    make_gradcam(runs / "g", "a" * 100, {"file": "folder/" * 30 + "x.png", "actual": LONG[0], "predicted": LONG[2]})
    make_lr_range(runs / "l")
    several = [hard, *(make_training(runs / f"t{n}", seed=n, label_smoothing=n / 10) for n in range(8))]
    trainings = [read_training(path) for path in several]
    contents = {
        "evidence": training_page(read_training(REPOSITORY / "runs" / "reference" / "demo-train")),
        "hard": training_page(trainings[0]),
        "several": comparison_page(trainings, compare(trainings)),
    }
    for name, content in contents.items():
        (folder / f"{name}.html").write_bytes(content)
    return {name: folder / f"{name}.html" for name in contents}


@pytest.mark.parametrize("name", ["evidence", "hard", "several"])
def test_no_page_is_wider_than_its_window_or_loads_anything(
    name: str, browser: Browser, pages: dict[str, Path]
) -> None:
    browser.requests.clear()
    for width in WIDTHS:
        browser.open(pages[name], width)
        assert browser.value("innerWidth") == width
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)") is True
        assert browser.value("document.title") != "run"
    assert browser.requests == [pages[name].resolve().as_uri()] * len(WIDTHS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(scheme: str, browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["evidence"], 800, scheme)
    colors = [
        browser.value(f"getComputedStyle(document.querySelector('{selector}')).{name}")
        for selector, name in (("body", "backgroundColor"), ("h1", "color"), ("figcaption", "color"))
    ]
    background, *texts = (luminance(color) for color in colors)
    assert (background > 0.5) == (scheme == "light")
    for text in texts:  # WCAG 2.2, success criterion 1.4.3: at least 4.5
        low, high = sorted((text, background))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
