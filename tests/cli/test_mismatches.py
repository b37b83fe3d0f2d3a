"""What differs between a training and its later use is said or refused: data, options, environment, checkpoints."""

import json
import shutil
from pathlib import Path

import pytest

from scsuite import load_checkpoint, load_classifier
from scsuite.core.runs.checkpoints import list_checkpoints
from tests.cli.test_errors import check_refusal
from tests.cli.test_other_data import make_run
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import ONE_EPOCH_ARGS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A run that was stopped before its end, whose data lies beside it."""
    return make_run(tmp_path, num_steps=2)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# --- data ---


def warnings_in(answer: CliResult) -> list[str]:
    """Return the warnings, but for one about the predictions: a network of a few steps may differ between machines."""
    return [text for text in answer.result["warnings"] if not text.startswith("every image is predicted as ")]


@pytest.mark.usefixtures("no_figures")
def test_data_whose_content_changed_at_its_place_is_reported(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "pets"
    out = ("--runs-dir", tmp_path / "out", "--json")
    assert warnings_in(run_cli("evaluate", "--ckpt", run, "--limit-test", 3, *out)) == []
    (data / "cat").rename(data / "x")  # two exchanged folders
    (data / "owl").rename(data / "cat")
    (data / "x").rename(data / "owl")
    for command, *more in (("evaluate", "--limit-test", 3), ("gradcam", "--select", "all", "--count", 2)):
        answer = run_cli(command, "--ckpt", run, *more, *out)
        (warning,) = warnings_in(answer)
        assert f"the data at {data} is not the training's: its images, labels or names have changed" in warning
        environment = json.loads((answer.run_dir / "environment.json").read_text())
        assert environment["data"]["fingerprint"][:12] in warning
    (warning,) = warnings_in(run_cli("evaluate", "--ckpt", run, "--fit", "pad", *out))
    assert "--fit pad is not the training's, crop, so the data cannot be compared" in warning


# --- options of a resume ---


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lr-from", "RUNS/x"), ("--lr-from: expected none",)),
        (("--runs-dir", "RUNS/other"), ("--runs-dir: expected that of the run",)),
        (("--name", "other"), ("--name: expected that of the run",)),
        (("--lr-max", "auto"), ("--lr-max: expected 0.1",)),
        (("--recipe", "assignment"), ("--recipe: expected default",)),
        (("--seeds", "3"), ("--seeds: expected none",)),
        (("--target", "90"), ("--target: expected none",)),
        (("--device", "cuda"), ("--device: expected cpu",)),
        (("--precision", "bf16"), ("--precision: expected auto",)),
        (("--div-factor", "5"), ("--div-factor: expected 10",)),
        (("--fit", "pad"), ("--fit: expected crop",)),
        (("--limit-train", "5"), ("--limit-train: expected none",)),
    ],
)
def test_a_resume_refuses_each_option_that_it_would_not_obey(
    is_finished: bool, options: tuple[str, str], words: tuple[str, ...], finished: Path, tmp_path: Path
) -> None:
    run = finished
    if not is_finished:
        run = Path(shutil.copytree(finished, tmp_path / finished.name))
        (run / "result.json").unlink()
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    option, value = options
    answer = run_cli("train", "--resume", run, option, value.replace("RUNS", str(tmp_path)))
    check_refusal(answer, 2, *words, "Leave the option out" if "of the run" not in words[0] else "leave the option out")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_a_resume_takes_the_options_of_its_run_and_those_that_change_no_number(finished: Path, tmp_path: Path) -> None:
    own = ("--runs-dir", finished.parent, "--name", "pets", "--recipe", "default", "--lr-max", 0.1, "--lr-min", "auto")
    places = ("--data", finished.parents[1] / "pets", "--augment", finished.parents[1] / "policy.yaml")
    neutral = ("--workers", 0, "--cache-dir", tmp_path / "cache", "--json", "--quiet")
    assert run_cli("train", "--resume", finished, *own, *places, *neutral).code == 0


def test_a_complete_run_refuses_other_data_and_another_policy(finished: Path, tmp_path: Path) -> None:
    folder = finished.parents[1]
    data = shutil.copytree(folder / "pets", tmp_path / "pets")
    policy = Path(shutil.copy(folder / "policy.yaml", tmp_path))
    assert run_cli("train", "--resume", finished, "--data", data, "--augment", policy).code == 0  # the same content
    policy.write_text(policy.read_text().replace("0.5", "0.25"))
    check_refusal(run_cli("train", "--resume", finished, "--augment", policy), 3, "cannot resume", "the same policy")
    next(data.rglob("*.png")).unlink()
    check_refusal(run_cli("train", "--resume", finished, "--data", data), 3, "cannot resume", "the same data")


def test_a_run_of_a_range_test_takes_auto_bounds(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "range_test": {"reason": "x"}}))
    assert run_cli("train", "--resume", run, "--lr-max", "auto", "--lr-min", "auto").code == 0


# --- the environment of a resume ---


def test_a_resume_records_its_process_and_warns_of_another_environment(stopped: Path) -> None:
    path = stopped / "environment.json"
    first = json.loads(path.read_text())
    other = {"threads": 99, "cpu": "i486", "versions": {**first["versions"], "torch": "1.0"}}
    path.write_text(json.dumps({**first, **other}))
    warnings = run_cli("train", "--resume", stopped, "--json").result["warnings"]
    for words in ("torch was 1.0 and is ", "threads was 99 and is 1", "cpu was i486 and is "):
        assert len([text for text in warnings if words in text]) == 1
    environment = json.loads(path.read_text())
    (resume,) = environment["resumes"]
    assert (resume["threads"], resume["step"], resume["device"]) == (first["threads"], 2, "cpu")
    assert resume["versions"] == first["versions"] and "--resume" in " ".join(resume["command_line"] + ["--resume"])
    assert (environment["threads"], environment["cpu"]) == (99, "i486")  # of the first process


# --- damaged checkpoints ---


@pytest.mark.usefixtures("no_figures")
def test_commands_fall_back_from_a_damaged_newest_checkpoint_and_say_so(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = list_checkpoints(stopped)[0]
    older = newest.with_name("step-000001.safetensors")
    shutil.copy(newest, older)
    damage(newest)
    image = next((tmp_path / "pets").rglob("*.png"))
    out = ("--runs-dir", tmp_path / "out", "--json")
    for words in (("evaluate", "--ckpt", stopped, *out), ("predict", "--ckpt", stopped, image, "--json")):
        result = run_cli(*words).result
        assert result["checkpoint"] == str(older)
        (warning,) = [text for text in result["warnings"] if "damaged" in text]
        assert warning.startswith("skipped a damaged checkpoint: ") and newest.name in warning
    for load in (load_checkpoint, load_classifier):
        with pytest.warns(UserWarning, match=newest.name):
            load(stopped)
    check_refusal(run_cli("evaluate", "--ckpt", newest, *out), 3, newest.name)  # the file itself was asked for
    damage(older)
    check_refusal(run_cli("evaluate", "--ckpt", stopped, *out), 3, "a complete checkpoint", "Give another run.")


@pytest.mark.usefixtures("no_figures")
def test_damaged_weights_of_a_finished_run_are_refused_with_the_intact_state(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    damage(run / "model.safetensors")
    state = list_checkpoints(run)[0]
    out = ("--runs-dir", tmp_path / "out", "--json")
    check_refusal(run_cli("evaluate", "--ckpt", run, *out), 3, "model.safetensors", f"{state} is intact")
    result = run_cli("evaluate", "--ckpt", state, *out).result
    assert result["accuracy"] == json.loads((run / "result.json").read_text())["final"]["test_accuracy"]


# --- the size of a checkpoint ---


def test_a_training_whose_state_could_not_be_read_is_refused_before_its_first_step(
    finished: Path, tmp_path: Path
) -> None:
    common = ("train", "--data", finished.parents[1] / "pets", "--device", "cpu", "--runs-dir", tmp_path / "runs")
    for more in (("--lr-max", 0.1), (), ("--seeds", 2)):  # the range test has steps too
        words = ("--width: expected a training whose state has at most 4,295 MB", "at 8. Lower --width.")
        check_refusal(run_cli(*common, "--width", 8, *more), 2, *words)
    assert not (tmp_path / "runs").exists()


def test_too_many_classes_for_a_checkpoint_are_refused_before_the_first_step(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scsuite.core.training.checkpoint_schedule.MAX_HEADER_BYTES", 270_000)
    data = finished.parents[1] / "pets"
    answer = run_cli("train", "--data", data, *ONE_EPOCH_ARGS, "--runs-dir", tmp_path / "runs")
    check_refusal(answer, 3, f"classes: {data}", "for 3 classes")
    assert not (tmp_path / "runs").exists()
