"""Reading a training and finding the runs that belong to it."""

import shutil
from pathlib import Path

import pytest

from scsuite.core.errors import InputError
from scsuite.core.runs.find_trainings import common_group, find_trainings
from scsuite.core.runs.train_summary import read_training
from tests.conftest import REPOSITORY
from tests.made_runs import make_evaluation, make_gradcam, make_lr_range, make_training, write_run

REFERENCE = REPOSITORY / "runs" / "reference"


def name_of(run: object) -> str | None:
    return None if run is None else Path(run.path).name  # type: ignore[attr-defined]


def test_the_runs_of_a_training_are_found_beside_it(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a-train")
    make_training(tmp_path / "b-train", lr_max=0.5)
    make_lr_range(tmp_path / "a-lr-range")
    make_lr_range(tmp_path / "other-bounds", lr_max=0.5)
    make_lr_range(tmp_path / "other-data", fingerprint="0" * 64)
    make_evaluation(tmp_path / "a-evaluate", "a-train")
    make_evaluation(tmp_path / "b-evaluate", "b-train")
    make_gradcam(tmp_path / "a-gradcam", "a-train")
    training = read_training(path)
    found = [name_of(run) for run in (training.lr_range, training.evaluation, training.gradcam)]
    assert found == ["a-lr-range", "a-evaluate", "a-gradcam"]
    assert training.lr_reason == ("the range test a-lr-range", "The loss falls fastest there.")


def test_a_moved_and_renamed_runs_directory_reads_the_same(tmp_path: Path) -> None:
    make_training(tmp_path / "runs" / "a-train")
    make_evaluation(tmp_path / "runs" / "a-evaluate", "a-train")
    moved = tmp_path / "elsewhere" / "results"
    shutil.copytree(tmp_path / "runs", moved)
    shutil.rmtree(tmp_path / "runs")
    assert name_of(read_training(moved / "a-train").evaluation) == "a-evaluate"
    (moved / "a-train").rename(moved / "best")  # result.json still has the name that the evaluation recorded
    assert name_of(read_training(moved / "best").evaluation) == "a-evaluate"


def test_the_newest_evaluation_on_the_same_images_counts(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a-train", started="2026-01-05T00:00:00")
    make_evaluation(tmp_path / "1", "a-train", started="2026-01-06T00:00:00")
    make_evaluation(tmp_path / "2", "a-train", started="2026-01-07T00:00:00")
    make_evaluation(tmp_path / "few-images", "a-train", started="2026-01-08T00:00:00", num_images=10)
    make_evaluation(tmp_path / "other-data", "a-train", started="2026-01-09T00:00:00", fingerprint="0" * 64)
    make_evaluation(tmp_path / "of-an-older-run-of-that-name", "a-train", started="2026-01-01T00:00:00")
    training = read_training(path)
    assert name_of(training.evaluation) == "2"
    assert [name_of(run) for run in training.other_evaluations] == ["other-data", "few-images"]


def test_maps_of_misclassified_test_images_come_before_others(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a-train")
    make_gradcam(tmp_path / "1-misclassified", "a-train")
    make_gradcam(tmp_path / "2-correct", "a-train", select="correct")
    make_gradcam(tmp_path / "3-own-images", "a-train", images=("cat.jpg",))
    assert name_of(read_training(path).gradcam) == "1-misclassified"
    shutil.rmtree(tmp_path / "1-misclassified")
    assert name_of(read_training(path).gradcam) == "2-correct"


def test_a_training_that_has_not_ended_is_stopped_and_has_no_final_accuracy(tmp_path: Path) -> None:
    training = read_training(make_training(tmp_path / "a", [0.5, 0.6], complete=False, epochs=9))
    assert (training.run.status, training.is_complete, len(training.epochs), training.num_epochs) == (
        "stopped", False, 2, 9,
    )  # fmt: skip
    assert (training.accuracy, training.accuracy_ci95) == (0.6, None)


def test_the_interval_is_wilsons(tmp_path: Path) -> None:
    low, high = read_training(make_training(tmp_path / "a", [0.9])).accuracy_ci95 or (0, 0)
    # 900 of 1,000: statsmodels.stats.proportion.proportion_confint(900, 1000, method="wilson")
    assert (low, high) == pytest.approx((0.879849, 0.917091), abs=1e-6)


@pytest.mark.parametrize(("target", "reached", "epoch"), [(89.0, True, 2), (0.89, True, 2), (95, False, None)])
def test_a_target_is_compared_with_the_final_accuracy(
    target: float, reached: bool, epoch: int | None, tmp_path: Path
) -> None:
    path = make_training(tmp_path / "a", [0.5, 0.92, 0.9], epochs=3)
    (path / "config.yaml").open("a").write(f"target: {target}\n")
    training = read_training(path)
    assert training.target_reached is reached
    assert training.target_reached_at == (None if epoch is None else (epoch, 60))  # 30 seconds an epoch


def test_the_committed_evidence_is_readable() -> None:
    training = read_training(REFERENCE / "demo-train")
    assert training.accuracy == 0.947
    assert [name_of(run) for run in (training.lr_range, training.evaluation, training.gradcam)] == [
        "demo-lr-range", "demo-evaluate", "demo-gradcam",
    ]  # fmt: skip
    training = read_training(REFERENCE / "cifar10-train-0")
    assert name_of(training.evaluation) == "cifar10-evaluate-0"
    assert training.num_parameters == 6_573_120  # the assignment's network
    assert training.history is not None
    assert (len(training.steps), training.history.steps_per_epoch) == (2352, 98)
    assert read_training(REFERENCE / "cifar10-fast-train-0").accuracy == 0.9397
    assert read_training(REFERENCE / "cifar10-train-1").accuracy == 0.9467  # without figures


# --- what is given ---


def test_a_directory_of_runs_stands_for_its_trainings(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_training(tmp_path / "runs" / name)
    make_evaluation(tmp_path / "runs" / "c", "a")
    (tmp_path / "runs" / "notes").mkdir()
    found = find_trainings([tmp_path / "runs", tmp_path / "runs" / "a"])
    assert [training.run.path.name for training in found] == ["a", "b"]


def test_a_run_of_several_seeds_stands_for_its_trainings(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_training(tmp_path / f"seed-{seed}", seed=seed)
    rows = [{"seed": seed, "run_dir": f"/elsewhere/seed-{seed}"} for seed in (0, 1)]
    write_run(tmp_path / "summary", {"seeds": 2}, {}, {"command": "train", "seeds": rows})
    assert [training.seed for training in find_trainings([tmp_path / "summary"])] == [0, 1]


def test_an_evaluation_from_another_directory_is_used_if_it_is_given(tmp_path: Path) -> None:
    path = make_training(tmp_path / "runs" / "a")
    other = make_evaluation(tmp_path / "others" / "e", "a")
    assert read_training(path).evaluation is None
    (training,) = find_trainings([path, other])
    assert name_of(training.evaluation) == "e"


def test_what_is_no_training_is_refused(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path / "e", "a")
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    for path, found in {
        tmp_path / "missing": "no directory", file: "no directory", tmp_path / "empty": "no config.yaml in it",
        evaluation: "runs of evaluate", tmp_path / ("x" * 300): "no directory", Path("a\0b"): "no directory",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=found):
            find_trainings([path])


@pytest.mark.parametrize("line", ["seed: many", "epochs: [1]", "width: true"])
def test_an_edited_configuration_is_refused(line: str, tmp_path: Path) -> None:
    path = make_training(tmp_path / "a")
    name = line.partition(":")[0]
    lines = [old for old in (path / "config.yaml").read_text().splitlines() if not old.startswith(f"{name}:")]
    (path / "config.yaml").write_text("\n".join([*lines, line]))
    with pytest.raises(InputError, match=f"a number for {name}"):
        read_training(path)


def test_damaged_rows_are_a_problem_and_no_error(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a")
    (path / "metrics.csv").write_text("epoch,step\none,two\n")
    training = read_training(path)
    assert training.epochs == ()
    assert len(training.problems) == 1


# --- a group of --seeds ---


def make_group(path: Path, num_done: int, result: bool = True) -> Path:
    """A run of `--seeds 2 --target 95` with this many trainings in it."""
    seeds = [{"seed": seed, "run_dir": f"/elsewhere/g/a-seed{seed}"} for seed in range(num_done)]
    values = {"command": "train", "status": "ok", "seeds": seeds, "target": 0.95} if result else {}
    config = {"seeds": 2, "target": 95.0, "peak_epoch": None, "batch_size": 512}
    write_run(path, config, {"started": "2026-01-01T00:00:00"}, values)
    for seed in range(num_done):
        make_training(path / f"a-seed{seed}", seed=seed)
    return path


@pytest.mark.parametrize("has_result", [True, False])  # without: killed
def test_a_group_stands_for_the_trainings_that_have_started(has_result: bool, tmp_path: Path) -> None:
    group = make_group(tmp_path / "runs" / "g", 2, has_result)
    for path in (group, tmp_path / "runs"):
        trainings = find_trainings([path])
        assert [training.seed for training in trainings] == [0, 1]
        found = common_group(trainings)
        assert found is not None
        assert (found.path, found.target) == (group, 0.95)
        assert trainings[0].target is None  # it is for the mean
    assert common_group(find_trainings([group / "a-seed0"])) is None


def test_a_group_without_a_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a group of seeds without one"):
        find_trainings([make_group(tmp_path / "g", 0, result=False)])


def test_an_evaluation_beside_a_group_belongs_to_its_first_seed(tmp_path: Path) -> None:
    group = make_group(tmp_path / "runs" / "g", 2)
    make_evaluation(tmp_path / "runs" / "e", "a-seed0")
    assert [name_of(training.evaluation) for training in find_trainings([group])] == ["e", None]


@pytest.mark.parametrize("text", ["1e999", "-Infinity", "NaN", "true", '"0.9"', "[0.9]"])
def test_an_accuracy_that_is_no_finite_number_is_none(text: str, tmp_path: Path) -> None:
    run = make_training(tmp_path / "run")
    result = (run / "result.json").read_text()
    (run / "result.json").write_text(result.replace('"test_accuracy": 0.9', f'"test_accuracy": {text}', 1))
    training = read_training(run)
    assert (training.accuracy, training.accuracy_ci95) == (None, None)
