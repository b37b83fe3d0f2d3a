"""Images are enlarged without blur, and their captions stay readable."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scsuite.report import figures
from scsuite.report.figures import save_figure
from tests.report.figures.examples import make_mistakes, overlap, random_images, texts, tiles


def test_images_are_enlarged_by_whole_pixels_without_blur(tmp_path: Path) -> None:
    images = random_images(1)
    save_figure(figures.image_grid(images, ["cat"], "t"), tmp_path / "a.png")
    page = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    expected = images[0].repeat(7, axis=0).repeat(7, axis=1)
    tops = [y for y in range(len(page) - len(expected) + 1) if (page[y, 30:254] == expected[0]).all()]
    assert tops
    np.testing.assert_array_equal(page[tops[0] : tops[0] + 224, 30:254], expected)


def test_images_and_titles_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        figures.image_grid(random_images(2), ["one"], "t")


@pytest.mark.parametrize(("num_images", "columns"), [(1, 1), (7, 5), (25, 5), (26, 10)])
def test_mistakes_are_five_in_a_row_or_ten_beyond_twenty_five(num_images: int, columns: int) -> None:
    images = tiles(figures.misclassified(*make_mistakes(num_images), num_images))
    assert len(images) == num_images
    assert len({image.get_extent()[0] for image in images}) == columns


def test_a_mistake_has_actual_and_predicted_class_and_its_probability() -> None:
    evaluation, split = make_mistakes(683)
    figure = figures.misclassified(evaluation, split, 1)
    assert texts(figure) == [
        "683 misclassified images, the most confident 1",
        "0.png",
        "true cat",
        "predicted dog 0.93",
    ]
    np.testing.assert_array_equal(tiles(figure)[0].get_array(), split.images_NHWC[evaluation.misclassified[0]])


def test_a_long_name_is_truncated_and_its_probability_is_not() -> None:
    figure = figures.misclassified(*make_mistakes(25, predicted="W" * 60), 25)
    lines = figure.axes[0].texts[1:]  # after the title
    left, right, *_ = tiles(figure)[0].get_extent()
    assert sum(text.get_text().endswith("W 0.93") for text in lines) == 25
    assert max(text.get_window_extent().width for text in lines) <= right - left + 1


@pytest.mark.parametrize("num_images", [25, 26])
def test_names_that_differ_in_their_middle_are_complete_on_two_lines(num_images: int) -> None:
    mistakes = make_mistakes(num_images, "color 10 of the wheel", "color 11 of the wheel")
    figure = figures.misclassified(*mistakes, num_images)
    lines = figure.axes[0].texts[1:6]
    expected = "0.png true color 10 of the wheel predicted color 11 of the wheel 0.93"
    assert " ".join(text.get_text() for text in lines) == expected
    assert not overlap(lines, 1)
    image = tiles(figure)[0].get_window_extent()
    assert min(text.get_window_extent().y0 for text in lines) > image.y1


@pytest.mark.parametrize(
    ("num_mistakes", "count", "text"),
    [(0, 25, "No misclassified images."), (3, 0, "3 misclassified images, none shown.")],
)
def test_without_images_the_page_says_why(num_mistakes: int, count: int, text: str) -> None:
    assert texts(figures.misclassified(*make_mistakes(num_mistakes), count)) == [text]
