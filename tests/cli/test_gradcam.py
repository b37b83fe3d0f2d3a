"""`scsuite gradcam`: the images it chooses, its methods, scores, maps and overlays."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.run_files import read_rows
from tests.run_cli import CliResult, run_cli


def gradcam(train_run: CliResult, tmp_path: Path, *options: object) -> dict[str, Any]:
    return run_cli("gradcam", "--ckpt", train_run.run_dir, *options, "--runs-dir", tmp_path, "--json").result


@pytest.mark.usefixtures("no_figures")
def test_gradcam_looks_at_mistakes_unless_told_else(
    train_run: CliResult, gradcam_run: CliResult, tmp_path: Path
) -> None:
    images = gradcam_run.result["images"]
    assert len(images) == 4
    for image in images:
        assert {"index", "actual", "predicted", "p_actual", "p_predicted"} <= image.keys()
        assert image["actual"] != image["predicted"]
        assert 0 <= image["p_actual"] <= image["p_predicted"] <= 1
    correct = gradcam(train_run, tmp_path, "--select", "correct", "--count", 3)["images"]
    assert correct
    assert all(image["actual"] == image["predicted"] for image in correct)


@pytest.mark.usefixtures("no_figures")
def test_gradcam_agrees_with_evaluate_about_the_images_it_is_asked_for(
    train_run: CliResult, evaluate_run: CliResult, tmp_path: Path
) -> None:
    images = gradcam(train_run, tmp_path, "--select", "7,3", "--class", "predicted")["images"]
    rows = read_rows(evaluate_run.run_dir / "predictions.csv")
    assert [image["index"] for image in images] == [7, 3]
    for image in images:
        row = rows[image["index"]]
        assert (image["actual"], image["predicted"]) == (row["actual"], row["predicted"])
        assert image["p_predicted"] == pytest.approx(float(row[f"p_{row['predicted']}"]), abs=1e-6)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.usefixtures("no_figures")
def test_gradcam_takes_own_images(repeated: bool, train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    files = [tmp_path / "a.png", tmp_path / "b.JPG"]
    Image.new("RGB", (64, 48), (200, 30, 30)).save(files[0])
    Image.new("L", (32, 32), 128).save(files[1])
    named = ("--images", files[0], "--images", files[1]) if repeated else ("--images", *files)
    images = gradcam(train_run, tmp_path / "runs", *named, "--class", "circle")["images"]
    assert [image["file"] for image in images] == [str(file) for file in files]
    assert all(image["actual"] is None and image["p_actual"] is None for image in images)


@pytest.mark.parametrize("method", ["gradcam++", "hirescam", "layercam", "xgradcam"])
def test_every_method_draws(method: str, train_run: CliResult, tmp_path: Path) -> None:
    result = gradcam(train_run, tmp_path, "--method", method, "--layer", "layer2", "--count", 1)
    assert Path(result["figures"][0]).stat().st_size > 5000
    assert (result["method"], result["layer"]) == (method, "layer2")


def test_gradcam_draws_the_difference_of_its_maps_on_request(train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    widths = []
    for options in ((), ("--difference",)):
        with Image.open(gradcam(train_run, tmp_path, "--count", 4, *options)["figures"][0]) as page:
            widths.append(page.width)
    assert widths[0] < widths[1]  # one more tile for each image


@pytest.mark.usefixtures("no_figures")
def test_gradcam_reports_the_faithfulness_of_its_maps(
    train_run: CliResult, gradcam_run: CliResult, tmp_path: Path
) -> None:
    scores = gradcam_run.result["faithfulness"]
    assert list(scores) == ["predicted", "actual"]
    for of_class in scores.values():
        assert (of_class["num_images"], of_class["num_scored"]) == (4, 4)
        names = [name for name in of_class if not name.startswith("num_")]
        assert len(names) == 9  # `shapes` has masks
        assert all(0 <= of_class[name] <= 1 for name in names)
    assert "pointing game" in gradcam_run.err
    again = gradcam(train_run, tmp_path, "--count", 4)
    assert again["faithfulness"] == scores
    none = gradcam(train_run, tmp_path, "--select", "0", "--class", "circle", "--limit-test", 10)
    assert list(none["faithfulness"]) == ["circle"]


def test_scores_of_own_images_need_no_masks(train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "a.png")
    scores = gradcam(train_run, tmp_path / "runs", "--images", tmp_path / "a.png")["faithfulness"]["predicted"]
    assert scores["deletion"] is not None
    assert scores["pointing"] is None and scores["energy_on_object"] is None


@pytest.mark.usefixtures("no_figures")
def test_gradcam_lists_the_layers_that_it_takes_and_writes_nothing(train_run: CliResult, tmp_path: Path) -> None:
    listed = gradcam(train_run, tmp_path / "runs", "--list-layers")
    assert not (tmp_path / "runs").exists()
    layers = {row["name"]: (row["height"], row["width"]) for row in listed["layers"]}
    assert layers["prep"] == (32, 32) and layers["layer3.res"] == (4, 4)
    assert listed["layer"] in layers
    answer = run_cli("gradcam", "--ckpt", train_run.run_dir, "--list-layers")
    assert all(name in answer.out for name in layers)
    averaged = gradcam(train_run, tmp_path, "--layer", "layer2,layer3.res", "--count", 1)
    assert averaged["layer"] == "layer2,layer3.res"


def test_maps_and_overlays_are_written_on_request(train_run: CliResult, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from safetensors.numpy import load_file

    result = gradcam(train_run, tmp_path, "--select", "7,3", "--save-maps", "--save-overlays")
    maps = load_file(result["maps"])
    assert maps["index"].tolist() == [7, 3]
    assert all(maps[name].shape == (2, 32, 32) and maps[name].min() >= 0 for name in ("predicted", "actual"))
    for number, image in enumerate(result["images"]):
        no_evidence = [name for name in ("predicted", "actual") if not np.any(maps[name][number])]
        assert image["no_evidence"] == no_evidence
    assert [Path(path).name for path in result["overlays"]] == [
        f"overlay-{index}-{name}.png" for index in (7, 3) for name in ("predicted", "actual")
    ]
    assert all(Image.open(path).size == (512, 512) for path in result["overlays"])


def test_maps_of_own_images_cover_the_complete_image(train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1200, 600), (200, 30, 30)).save(tmp_path / "a.jpg")
    result = gradcam(train_run, tmp_path / "runs", "--images", tmp_path / "a.jpg", "--class", "ring", "--save-overlays")
    assert [Image.open(path).size for path in result["overlays"]] == [(512, 256)]
    assert gradcam(train_run, tmp_path / "runs", "--count", 1)["overlays"] is None
