"""Maps share the scale of their image, and a map without evidence says so."""

import dataclasses
import gc
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from scsuite.report import figures
from scsuite.report.figures import save_figure, style
from scsuite.report.figures.gradcam import blend_heatmap
from tests.report.figures.examples import NAN, make_cam_data, random_images, texts, tiles


@pytest.fixture(autouse=True)
def free_figures() -> Iterator[None]:
    """A figure refers to itself and holds hundreds of megabytes, which Python would free much later."""
    yield
    gc.collect()


def _draw(maps: dict[str, Any], images: Any = None, *, difference: bool = True) -> tuple[Figure, list[Any]]:
    """Return the figure and its tiles: image, one per map, the difference of predicted and actual."""
    figure = figures.gradcam(make_cam_data(maps, images, difference=difference))
    return figure, [np.asarray(tile.get_array()) for tile in tiles(figure)][:-1]  # the last is the color bar


def test_both_maps_of_an_image_share_one_scale() -> None:
    strong = np.linspace(0, 4, 1024, dtype=np.float32).reshape(1, 32, 32)
    _, (_, predicted, actual, _) = _draw({"predicted": strong, "actual": strong / 4})
    _, (_, single) = _draw({"actual": strong / 4})
    # Equal evidence has equal colors on both maps: the maximum of actual is a quarter of that of predicted.
    quarter = int(np.argmin(np.abs(strong.ravel() - 1.0)))
    np.testing.assert_allclose(actual.reshape(-1, 3)[-1].astype(int), predicted.reshape(-1, 3)[quarter], atol=2)
    np.testing.assert_array_equal(single, predicted)


def test_a_map_without_positive_evidence_is_the_gray_image_and_says_so() -> None:
    zeros, ones = np.zeros((1, 32, 32), np.float32), np.ones((1, 32, 32), np.float32)
    figure, (_, predicted, actual, _) = _draw({"predicted": ones, "actual": zeros})
    assert texts(figure).count("no\npositive\nevidence") == 1
    assert (actual == actual[..., :1]).all()
    assert not (predicted == predicted[..., :1]).all()


def test_maps_of_zeros_and_nan_are_drawn_without_a_warning() -> None:
    maps = {"predicted": np.zeros((1, 32, 32), np.float32), "actual": np.full((1, 32, 32), NAN, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, _ = _draw(maps)
    assert texts(figure).count("no\npositive\nevidence") == 2
    assert texts(figure).count("no\ndifference") == 1


def test_the_difference_is_orange_for_predicted_blue_for_actual_and_gray_where_equal() -> None:
    predicted, actual = np.zeros((2, 1, 32, 32), np.float32)
    predicted[0, :16], actual[0, 8:24] = 1, 1  # rows 8 to 15 are evidence for both, rows 24 and on for none
    figure, images = _draw({"predicted": predicted, "actual": actual})
    difference = images[-1].astype(int)
    assert "difference" in texts(figure)
    red, blue = difference[..., 0], difference[..., 2]
    assert (red[:8] > blue[:8] + 100).all()
    assert (blue[16:24] > red[16:24] + 100).all()
    assert (difference[8:16] == difference[24:]).all() and (red[24:] == blue[24:]).all()


def test_the_difference_is_drawn_on_request_and_of_two_maps_only() -> None:
    ones = np.ones((1, 32, 32), np.float32)
    for maps, difference in (({"predicted": ones}, True), ({"predicted": ones, "actual": ones}, False)):
        figure, images = _draw(maps, difference=difference)
        assert len(images) == 1 + len(maps)
        assert "difference" not in texts(figure)


@pytest.mark.parametrize("difference", [False, True])
def test_twenty_five_images_fit_a_slide(difference: bool) -> None:
    maps = {name: np.ones((25, 32, 32), np.float32) for name in ("predicted", "actual")}
    figure, images = _draw(maps, random_images(25), difference=difference)
    width, height = figure.get_size_inches()
    assert 1.5 < width / height < 2
    assert len(images) == 25 * (3 + difference)
    smallest = min(text.get_fontsize() for text in figure.axes[0].texts)
    assert smallest * 1280 / (72 * width) > 9.5  # pixels of a line where the page is 1280 pixels wide


@pytest.mark.parametrize("num_images", [1, 2, 25])
@pytest.mark.parametrize("map_names", [("predicted",), ("predicted", "actual")])
def test_no_text_is_cut_or_overlaps_however_long_its_names(num_images: int, map_names: tuple[str, ...]) -> None:
    long = "an extraordinarily long class name of many words 12"
    caption = {"image": f"test/{'folder/' * 20}IMG_20260101.png", **{name: f"{name} {long} 0.62" for name in map_names}}
    maps = {name: np.ones((num_images, 32, 32), np.float32) for name in map_names}
    data = make_cam_data(maps, random_images(num_images), captions=[caption] * num_images, notes=["word " * 90])
    figure = figures.gradcam(dataclasses.replace(data, title="Grad-CAM (XGrad-CAM, layer2): 25 misclassified images"))
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert sum(text.endswith("IMG_20260101.png") for text in texts(figure)) == num_images
    assert sum(text.endswith("12 0.62") for text in texts(figure)) == num_images * len(map_names)
    assert "Grad-CAM (XGrad-CAM, layer2): 25 misclassified images" in texts(figure)
    overlaps = sum(a.overlaps(b) and min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 4
                   for a, b in itertools.combinations(boxes[: 40], 2))  # fmt: skip
    assert not overlaps


def test_notes_are_complete_below_the_figure_and_within_its_width() -> None:
    note = "predicted: " + ", ".join(f"score {i} 12 % (random 13 %)" for i in range(12))
    maps = {"predicted": np.ones((1, 32, 32), np.float32)}
    figure = figures.gradcam(make_cam_data(maps, captions=[{}], notes=[note, "actual: none"]))
    width, height = figure.get_size_inches() * style.DPI
    first = texts(figure).index("Each image has its own scale.") - len(texts(figure))  # the notes are the last texts
    lines = figure.axes[0].texts[first:]
    assert " ".join(line.get_text() for line in lines) == f"Each image has its own scale. {note} actual: none"
    boxes = [line.get_window_extent() for line in lines]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 for box in boxes)
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
    assert min(tile.get_extent()[2] for tile in tiles(figure)) <= height - boxes[0].y1


def test_images_of_different_sizes_keep_their_proportions() -> None:
    sizes = [(300, 600), (90, 30)]
    images = [np.full((*size, 3), 7, np.uint8) for size in sizes]
    figure, _ = _draw({"dog": [np.ones(size, np.float32) for size in sizes]}, images)
    extents = [tile.get_extent() for tile in tiles(figure)]
    ratios = [abs(bottom - top) / (right - left) for left, right, bottom, top in extents[:4]]
    assert ratios == pytest.approx([0.5, 0.5, 3.0, 3.0], rel=0.02)


def test_regions_are_outlined_on_every_tile_of_their_image() -> None:
    sizes, regions = [(100, 300), (300, 100)], [(100.0, 0.0, 200.0, 100.0), (0.0, 100.0, 100.0, 200.0)]
    images = [np.full((*size, 3), 7, np.uint8) for size in sizes]
    maps = {"dog": [np.ones(size, np.float32) for size in sizes]}
    figure = figures.gradcam(make_cam_data(maps, images, regions=regions))
    outlines = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)][::2]  # white on black
    assert len(outlines) == 4
    for number, (tile, outline) in enumerate(zip(tiles(figure), outlines, strict=False)):
        left, right, _, top = tile.get_extent()
        scale = (right - left) / sizes[number // 2][1]
        x0, y0, x1, y1 = regions[number // 2]
        expected = [left + x0 * scale, top + y0 * scale, left + x1 * scale, top + y1 * scale]
        drawn = [*outline.get_xy(), outline.get_x() + outline.get_width(), outline.get_y() + outline.get_height()]
        assert drawn == pytest.approx(expected, abs=2.5)  # pixels: the line is within the region
    without = figures.gradcam(make_cam_data(maps, images))
    assert not [patch for patch in without.axes[0].patches if isinstance(patch, Rectangle)]


def test_captions_are_no_wider_than_the_tiles_of_their_image() -> None:
    maps = {name: np.ones((25, 32, 32), np.float32) for name in ("predicted", "actual")}
    caption = {"image": "test/1.png", "predicted": "predicted automobile 0.62", "actual": f"actual {'W' * 60} 0.31"}
    figure = figures.gradcam(make_cam_data(maps, random_images(25), captions=[caption] * 25))
    images = tiles(figure)[:-1]
    width = images[2].get_extent()[1] - images[0].get_extent()[0]
    captions_drawn = [t for t in figure.axes[0].texts if t.get_text().endswith(("1.png", "0.62", "0.31"))]
    assert len(images) == 75 and len(captions_drawn) == 75
    assert max(text.get_window_extent().width for text in captions_drawn) <= 1.02 * width  # letters are on whole pixels


def test_without_images_the_page_says_so() -> None:
    assert texts(figures.gradcam(make_cam_data({"dog": []}, []))) == ["No images to explain."]


def test_stronger_evidence_is_brighter_and_none_leaves_the_image() -> None:
    gray = np.full((1, 5, 3), 60, np.uint8)
    blended = blend_heatmap(gray, np.array([[0.0, 0.25, 0.5, 0.75, 1.0]], np.float32))
    luma = blended[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_array_equal(blended[0, 0], [60, 60, 60])
    assert (np.diff(luma[1:]) > 0).all()


def test_an_overlay_is_enlarged_without_blur(tmp_path: Path) -> None:
    image, heatmap = random_images(1)[0], np.zeros((32, 32), np.float32)
    heatmap[:16] = 0.5
    save_figure(figures.overlay(image, heatmap, 1.0), tmp_path / "a.png")
    page = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert page.shape == (512, 512, 3)
    small = page[::16, ::16]
    assert (page == small.repeat(16, axis=0).repeat(16, axis=1)).all()
    assert (small[16:] == small[16:, :, :1]).all() and not (small[:16] == small[:16, :, :1]).all()
    save_figure(figures.overlay(image, np.zeros_like(heatmap), 0.0), tmp_path / "b.png")
    assert (np.asarray(Image.open(tmp_path / "b.png").convert("RGB"))[256:] == page[256:]).all()
