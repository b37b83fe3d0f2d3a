"""`scsuite predict`: the same answers as `evaluate`, for every kind of file and name; one line for what is refused."""

import csv
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset import load_dataset
from scsuite.core.runs.csv_files import read_cell
from tests.run_cli import CliResult, run_cli

COMMON_KEYS = ["command", "version", "status", "run_dir", "seconds", "warnings", "figures"]


def predict(train_run: CliResult, *arguments: object) -> CliResult:
    return run_cli("predict", "--ckpt", train_run.run_dir, "--device", "cpu", *arguments)


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (value, value, value)).save(path, "PNG")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [Path(row["file"]).name for row in rows]


def test_predict_gives_the_answers_of_evaluate(train_run: CliResult, evaluate_run: CliResult, tmp_path: Path) -> None:
    for i, image_HWC in enumerate(load_dataset("shapes", limit_test=100).test.images_NHWC):
        Image.fromarray(image_HWC).save(tmp_path / f"{i:02d}.png")
    result = predict(train_run, tmp_path, "--topk", 10, "--json").result
    assert list(result)[:7] == COMMON_KEYS
    assert (result["command"], result["status"], result["run_dir"]) == ("predict", "ok", None)
    assert result["checkpoint"] == train_run.result["checkpoint"]
    assert (result["unreadable"], result["error"], result["fit"]) == ([], None, "crop")
    expected = read_csv(evaluate_run.run_dir / "predictions.csv")
    assert [row["predicted"] for row in result["predictions"]] == [row["predicted"] for row in expected]
    for row, evaluated in zip(result["predictions"], expected, strict=True):
        assert Path(row["file"]).is_absolute()
        assert row["probability"] == row["topk"][0]["probability"]
        for item in row["topk"]:
            assert item["probability"] == pytest.approx(float(evaluated[f"p_{item['name']}"]), abs=1e-6)


def test_csv_json_file_and_printed_object_have_the_same_predictions(train_run: CliResult, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", 100 * number)
    out = tmp_path / "new folder" / "out.CSV"
    result = predict(train_run, tmp_path, "--topk", 2, "--tta", "flip", "--out", out, "--json").result
    assert (result["out"], result["tta"]) == (str(out), "flip")
    rows = read_csv(out)
    assert list(rows[0]) == ["file", "predicted", "probability", "class_2", "probability_2"]
    for row, printed in zip(rows, result["predictions"], strict=True):
        first, second = printed["topk"]
        assert list(row.values()) == [
            printed["file"], first["name"], str(first["probability"]), second["name"], str(second["probability"])
        ]  # fmt: skip
    again = predict(train_run, tmp_path, "--topk", 2, "--tta", "flip", "--out", tmp_path / "a.json", "--json").result
    assert json.loads((tmp_path / "a.json").read_text()) == again
    assert again["predictions"] == result["predictions"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png", "a.json", "new folder"]


def test_unreadable_files_are_listed_and_the_rest_is_predicted(train_run: CliResult, tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").write_bytes(save(tmp_path / "c.png").read_bytes()[:60])
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.write(tmp_path / "c.png", "in/c.png")
        archive.writestr("in/broken.png", b"\x89PNG\r\n")
    answer = predict(train_run, tmp_path / "photos", tmp_path / "d.zip", tmp_path / "c.png", "--json")
    result = json.loads(answer.out)
    assert (answer.code, result["status"]) == (3, "failed")
    assert names(result["predictions"]) == ["a.png", "c.png", "c.png"]
    assert [row["file"] for row in result["unreadable"]] == [
        str(tmp_path / "photos/b.png"), f"{tmp_path}/d.zip/in/broken.png"
    ]  # fmt: skip
    (error_line,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path}/photos/b.png: expected a complete image" in error_line
    assert "1 other file that cannot be read. The other 3 images were predicted." in error_line
    assert result["error"]["where"] == str(tmp_path / "photos/b.png")
    assert result["exit_code"] == 3
    assert "1 file that is not an image by its name was skipped (.txt 1; the first is" in answer.err


def test_one_image_that_is_predicted_is_counted_in_words(train_run: CliResult, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(save(tmp_path / "a.png").read_bytes()[:60])
    assert ". The other image was predicted. Replace" in predict(train_run, tmp_path).err


@pytest.mark.parametrize("kind", ["unreadable", "folder without images", "empty archive", "damaged archive"])
def test_nothing_to_predict_is_one_line(train_run: CliResult, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "input"
    if kind == "unreadable":
        target.write_text("no image")
    elif kind == "folder without images":
        (target / "empty").mkdir(parents=True)
        (target / "notes.txt").write_text("no image")
    else:
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("notes.txt", b"no image")
        if kind == "damaged archive":
            target.write_bytes(target.read_bytes()[:-30])
    answer = predict(train_run, target, "--quiet")
    assert answer.code == 3
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert line.startswith(f"error: image: {target}")
    reasons = {"unreadable": "a text file", "damaged archive": "an archive that ends too early"}
    assert f"found {reasons.get(kind, 'no images, and 1 other file')}" in line
    result = json.loads(predict(train_run, target, "--json").out)
    assert (result["predictions"], len(result["unreadable"])) == ([], 1)


def test_one_other_image_is_said_in_the_singular_and_skipped_files_are_named_relatively(
    train_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("a.apng", "b.mpo"):
        save(tmp_path / "photos" / f"{name}.png").rename(tmp_path / "photos" / name)
    Path("photos/b.mpo").write_bytes(b"")
    Path("photos/c.txt").write_text("no image")
    answer = predict(train_run, "photos")
    assert "The other image was predicted." in answer.err
    assert "(.txt 1; the first is photos/c.txt)" in answer.out


def test_a_wrong_path_is_refused_before_anything_is_done(train_run: CliResult, tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to("nothing.png")
    missing = "No such file"
    (tmp_path / "link to pipe").symlink_to("pipe")
    pipe = "a pipe, socket or device"
    cases = {"no.png": missing, "-": missing, "pipe": pipe, "link to pipe": pipe, "link.png": "a link to nothing"}
    for path, found in cases.items():
        answer = predict(train_run, image, tmp_path / path, "--out", tmp_path / "out.csv")
        assert (answer.code, answer.out) == (3, "")
        (line,) = answer.err.splitlines()
        assert line.startswith(f"error: image: {tmp_path / path}: expected a file, folder or archive, found {found}")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topk", "11"), "option: --topk: expected a whole number from 1 to 10, the number of classes, found 11"),
        (("--topk", "0"), "option: --topk: expected a whole number >= 1, found 0"),
        (("--out", "out.txt"), "option: --out: expected FILE.csv or FILE.json, found out.txt"),
        (("--out", "folder.csv"), "option: --out: expected a new name or a plain file, found folder.csv"),
        (("--out", "a.csv"), "option: --out: expected a file that is not read, found a.csv"),
    ],
)
def test_wrong_options_are_refused(
    arguments: tuple[str, ...], message: str, train_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("a.csv"))  # an image by its content
    Path("folder.csv").mkdir()
    answer = predict(train_run, "a.csv", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "folder.csv"]


def test_no_path_is_a_usage_error(train_run: CliResult) -> None:
    answer = predict(train_run)
    assert answer.code == 2
    assert answer.err.startswith("error: paths: predict: expected at least one, found none.")


def test_an_out_that_cannot_be_written_is_refused_before_the_prediction(train_run: CliResult, tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    answer = predict(train_run, image, "--out", image / "out.csv")
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith(f"error: cannot write: {image}/out.csv: expected a folder")
    assert "Choose another --out." in answer.err


NAMES = (b"caf\xe9.png", b"line\nbreak.png", b"=cmd.png", b"[red].png", b"$x$.png", b'a,b".png', b"\x1b[31m.png")


def test_file_names_of_any_bytes_are_predicted_and_read_back(
    train_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = save(tmp_path / "image.png").read_bytes()
    for name in NAMES:
        Path(os.fsdecode(name)).write_bytes(image)
    arguments = [os.fsdecode(name) for name in NAMES]
    answer = predict(train_run, *arguments, "--out", "out.csv")
    assert answer.code == 0, answer.err
    assert "\x1b[31m.png" not in answer.out
    written = [read_cell(row["file"]) for row in read_csv(Path("out.csv"))]
    assert written == [f"{tmp_path}/{name}" for name in arguments]
    result = predict(train_run, *arguments, "--json").result
    assert [os.fsencode(Path(row["file"]).name) for row in result["predictions"]] == list(NAMES)


def test_a_long_result_shows_the_first_rows_and_how_many_more(
    train_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = save(tmp_path / "image.png").read_bytes()
    for number in range(25):
        (tmp_path / f"{number:02d}.png").write_bytes(image)
    out = predict(train_run, ".").out
    assert "19.png" in out
    assert "20.png" not in out
    assert "and 6 more: --out FILE.csv or --json has all" in out
    assert "images    26 in " in out


def test_fit_is_the_runs_unless_a_flag_overrides_it(train_run: CliResult, tmp_path: Path) -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, :30] = 255  # outside the centre square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.new("RGB", (96, 32)).save(tmp_path / "black.png")
    for fit, is_equal in {None: True, "crop": True, "pad": False, "stretch": False}.items():
        result = predict(train_run, tmp_path, *(("--fit", fit) if fit else ()), "--json").result
        probabilities = {row["probability"] for row in result["predictions"]}
        assert (result["fit"], len(probabilities) == 1) == (fit or "crop", is_equal)


def test_what_is_cut_away_is_said(train_run: CliResult, tmp_path: Path) -> None:
    Image.new("RGB", (80, 40)).save(tmp_path / "wide.png")
    out = predict(train_run, tmp_path).out
    assert "1 of 1 images were resized to 32 x 32; 50 % of their area was cut away on average" in out


def test_a_moved_checkpoint_file_predicts_the_same(train_run: CliResult, tmp_path: Path) -> None:
    image, moved = save(tmp_path / "a.png", 90), tmp_path / "moved.safetensors"
    shutil.copy(train_run.result["checkpoint"], moved)
    first = predict(train_run, image, "--json").result["predictions"]
    assert run_cli("predict", "--ckpt", moved, "--device", "cpu", image, "--json").result["predictions"] == first
