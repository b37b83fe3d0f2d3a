"""`--fit` and `--flip`: recorded in the run, used by the commands after it, and overridden by a flag."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.run_cli import CliResult, run_cli

RESULT_OPTIONS = ("--limit-test", "4", "--quiet", "--json")


def write_photo(path: Path, size: tuple[int, int], color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (90, 120, 90))
    image.paste(color, (0, 0, min(size) // 2, min(size) // 2))  # in the corner that fit crop cuts away
    image.save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide, tall and square images of two classes, which are digits."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 6), ("test", 3)):
        for name, color in (("0", (230, 30, 30)), ("1", (30, 30, 230))):
            for i in range(count):
                write_photo(root / split / name / f"{i}.png", [(80, 32), (32, 80), (40, 40)][i % 3], color)
    return root


@pytest.fixture(scope="module")
def pad_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CliResult:
    return run_cli(
        "train", "--data", photos, "--fit", "pad", "--flip", "random", "--epochs", 1, "--bs", 6, "--lr-max", 0.05,
        "--width", 0.05, "--no-whitening-init", "--runs-dir", tmp_path_factory.mktemp("runs"), "--json",
    )  # fmt: skip


@pytest.mark.usefixtures("no_figures")
def test_a_run_records_fit_and_flip_and_the_commands_after_it_use_its_fit(
    pad_run: CliResult, photos: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((Path(pad_run.run_dir) / "config.yaml").read_text())
    assert (config["fit"], config["flip"]) == ("pad", "random")
    assert "18 of 18 images were resized to 32 x 32" in pad_run.err
    for options, is_cut in (((), False), (("--fit", "crop"), True), (("--fit", "stretch"), False)):
        answer = run_cli("evaluate", "--ckpt", pad_run.run_dir, *options, "--runs-dir", tmp_path, "--json")
        assert answer.code == 0
        assert ("% of their area was cut away on average (--fit pad keeps it)" in answer.err) == is_cut


def test_gradcam_says_what_the_network_saw_of_photos(pad_run: CliResult, photos: Path, tmp_path: Path) -> None:
    wide_path, tall_path = tmp_path / "wide.jpg", tmp_path / "tall.jpg"
    write_photo(wide_path, (900, 300), (230, 30, 30))
    write_photo(tall_path, (300, 900), (30, 30, 230))
    predicted = {}
    for fit in ("crop", "pad", "stretch"):
        answer = run_cli(
            "gradcam", "--ckpt", pad_run.run_dir, "--fit", fit, "--images", wide_path, tall_path,
            "--save-overlays", "--runs-dir", tmp_path / "runs", "--json",
        )  # fmt: skip
        predicted[fit] = [row["p_predicted"] for row in answer.result["images"]]
        wide = np.asarray(Image.open(answer.result["overlays"][0]).convert("RGB")).astype(int)
        has_color = (wide.max(axis=2) - wide.min(axis=2) > 3).any(axis=0)  # by column; without evidence it is gray
        third = len(has_color) // 3
        if fit == "crop":
            assert not has_color[: third - 2].any() and not has_color[2 * third + 2 :].any()
    assert len({tuple(values) for values in predicted.values()}) == 3


def test_class_names_that_are_digits_give_a_warning_unless_flips_are_off(
    pad_run: CliResult, photos: Path, tmp_path: Path
) -> None:
    assert any("consider --flip none" in warning for warning in pad_run.result["warnings"])
    options = ("--data", photos, "--epochs", 1, "--bs", 6, "--lr-max", 0.05, "--width", 0.05, "--no-whitening-init")
    answer = run_cli("train", *options, "--flip", "none", "--runs-dir", tmp_path, "--json")
    assert not [warning for warning in answer.result["warnings"] if "--flip" in warning]


def test_the_option_of_before_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("alternate_flips: false\n")
    answer = run_cli("train", "--config", config, "--runs-dir", tmp_path / "runs")
    assert answer.code == 2
    assert re.match("error: .*alternate_flips", answer.err)
