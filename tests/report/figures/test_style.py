"""What holds for every figure: size, format, style, errors, and that matplotlib is left as it was."""

import struct
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from scsuite.core.errors import OutputError, UsageError
from scsuite.report import figures
from scsuite.report.figures import save_figure, style
from tests.report.figures.examples import EXAMPLES, make_evaluation, random_images


def test_every_figure_function_has_an_example() -> None:
    assert {*EXAMPLES, "save_figure", "CamFigureData"} == set(figures.__all__)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_figure_is_a_png_of_readable_size_without_a_warning(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(EXAMPLES[name](), tmp_path / "new" / "a.png")
    header = (tmp_path / "new" / "a.png").read_bytes()[:24]
    width, height = struct.unpack(">II", header[16:24])
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert 500 <= width <= 1500 and 200 <= height <= 1500


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")])
def test_the_suffix_sets_the_format_and_equal_figures_give_equal_files(
    suffix: str, start: bytes, tmp_path: Path
) -> None:
    written = []
    for _ in range(2):
        save_figure(EXAMPLES["reliability"](), tmp_path / f"a{suffix}")
        written.append((tmp_path / f"a{suffix}").read_bytes())
    assert written[0].startswith(start)
    assert written[0] == written[1]


def test_a_figure_can_be_saved_twice(tmp_path: Path) -> None:
    figure = EXAMPLES["training"]()
    for name in ("a.png", "b.png"):
        save_figure(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_suffix_is_a_usage_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        save_figure(EXAMPLES["training"](), tmp_path / "a.docx")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError):
        save_figure(EXAMPLES["training"](), tmp_path / "file" / "a.png")


def test_an_error_while_rendering_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = EXAMPLES["overlay"]()

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(figure, "draw", fail)
    with pytest.raises(MemoryError):
        save_figure(figure, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_keeps_its_settings_and_those_of_the_user_do_not_matter(tmp_path: Path) -> None:
    save_figure(EXAMPLES["training"](), tmp_path / "expected.png")
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 50, "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        save_figure(EXAMPLES["training"](), tmp_path / "a.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "overlay"])
@pytest.mark.parametrize("text", ["20260101T000000Z-train-shapes · shapes · seed 0", "W" * 300 + "-end"])
def test_a_footer_is_written_below_the_figure_and_changes_nothing_else(name: str, text: str, tmp_path: Path) -> None:
    figure = EXAMPLES[name]()
    num_texts = len(figure.texts)
    save_figure(figure, tmp_path / "expected.png")
    save_figure(figure, tmp_path / "a.png", text)
    page, expected = (np.asarray(Image.open(tmp_path / f"{file}.png").convert("RGB")) for file in ("a", "expected"))
    strip = page[len(expected) :]
    assert strip.shape[:2] == (style.FOOTER_HEIGHT, expected.shape[1])
    np.testing.assert_array_equal(page[: len(expected)], expected)
    rows, columns = np.nonzero((strip < 200).any(axis=2))
    assert rows.min() > 0 and rows.max() < style.FOOTER_HEIGHT - 1
    assert columns.min() > style.FOOTER_MARGIN - 3 and columns.max() < strip.shape[1] - style.FOOTER_MARGIN / 2
    assert len(figure.texts) == num_texts  # the figure is as it was
    for suffix in ("svg", "pdf"):
        save_figure(figure, tmp_path / f"a.{suffix}", text)


@pytest.mark.parametrize("name", ["schedule", "lr_range", "training"])
def test_a_figure_that_matplotlib_saves_itself_looks_the_same(name: str, tmp_path: Path) -> None:
    save_figure(EXAMPLES[name](), tmp_path / "expected.png")
    with matplotlib.rc_context({"xtick.labelsize": 30, "grid.color": "red"}):
        EXAMPLES[name]().savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_characters_without_a_font_cause_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figures.image_grid(random_images(1), ["猫 \ue000"], "猫"), tmp_path / "a.png")


def test_a_figure_that_a_user_saves_has_an_escape_for_each_character_without_a_font(tmp_path: Path) -> None:
    assert style.legible("é \ue000\n\x1b") == r"é \ue000\n\x1b"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.image_grid(random_images(1), ["\ue000 猫"], "猫 \ue000").savefig(tmp_path / "a.png")


def test_pyplot_is_never_imported() -> None:
    source = "".join(file.read_text() for file in Path(figures.__file__).parent.glob("*.py"))
    assert "import pyplot" not in source and "matplotlib.pyplot" not in source


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("schedule", {"step", "learning rate"}),
        ("lr_range", {"accuracy (%)", "learning rate"}),
        ("training", {"loss", "accuracy (%)", "learning rate", "epoch"}),
        ("confusion", {"actual", "predicted"}),
        ("reliability", {"confidence", "accuracy", "images"}),
    ],
)
def test_axes_have_labels(name: str, labels: set[str]) -> None:
    figure = EXAMPLES[name]()
    assert labels <= {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}


def test_names_from_outside_are_neither_formulas_nor_control_characters() -> None:
    hostile = "$\\frac{1}{2}$\n"
    for figure in (
        figures.confusion(make_evaluation(np.eye(2, dtype=np.int64), [hostile, "b"])),
        figures.image_grid(random_images(1), [hostile], hostile),
    ):
        named = [t for t in figure.findobj(Text) if isinstance(t, Text) and "frac{" in t.get_text()]
        assert len(named) >= 2
        assert all(not text.get_parse_math() and "\\n" in text.get_text() for text in named)


def test_a_title_too_long_for_the_figure_is_truncated_in_its_middle() -> None:
    title = f"40 of 40 steps: {'W' * 200}-end"
    figure = figures.schedule([0.1, 0.2], lr_min=0.1, lr_max=0.2, steps_per_epoch=1, title=title)
    (text,) = [text for text in figure.texts if text.get_text().startswith("40 of 40 steps: ")]
    assert text.get_text().endswith("-end")
    assert text.get_window_extent().x1 <= figure.bbox.x1
