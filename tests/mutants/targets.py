"""What is mutated, and the test files that may notice it."""

from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = "scsuite/core/training"


class Target(NamedTuple):
    """A part of the core: its source files, and its quick tests."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


TARGETS = {
    "step": Target(
        (f"{TRAINING}/step.py",),
        ("training/test_step.py", "training/test_step_calls.py", "training/test_loop.py", "training/test_no_float64.py"),
    ),
    "loader": Target(
        (f"{TRAINING}/loader.py",),
        ("training/test_loader.py", "training/test_setup.py", "training/test_loop.py"),
    ),
    "normalisation": Target(
        ("scsuite/core/dataset/split.py", f"{TRAINING}/setup.py"),
        (
            "dataset/test_split.py", "dataset/test_load_dataset.py", "training/test_setup.py", "training/test_loop.py",
            "training/test_loader.py", "augment/test_policy.py", "augment/test_default.py", "evaluation/test_evaluate.py",
            "training/test_trainer.py",
        ),
    ),  # fmt: skip
    "checkpoint": Target(
        (
            "scsuite/core/model/checkpoint.py", "scsuite/core/model/checkpoint_file.py", "scsuite/core/runs/checkpoints.py",
            f"{TRAINING}/state.py",
        ),
        (
            "model/test_checkpoint.py", "training/test_state.py", "training/test_trainer.py", "training/test_resume.py",
            "runs/test_rundir.py", "training/test_own_network.py",
        ),
    ),
    "resume": Target(
        (f"{TRAINING}/resume.py",),
        ("training/test_resume.py", "training/test_trainer.py", "training/test_own_network.py", "training/test_step_graph.py"),
    ),
    "rules": Target(
        ("scsuite/core/lr_range/rules.py", "scsuite/core/lr_range/sweep.py"),
        ("lr_range/test_rules.py", "lr_range/test_range_test.py"),
    ),
    "metrics": Target(("scsuite/core/evaluation/metrics.py",), ("evaluation/test_metrics.py", "evaluation/test_evaluate.py")),
    "maps": Target(("scsuite/core/cam/maps.py",), ("cam/test_maps.py", "cam/test_faithfulness.py")),
    "rundir": Target(
        ("scsuite/core/runs/rundir.py",),
        ("runs/test_rundir.py", "runs/test_results.py", "training/test_resume.py", "training/test_trainer.py"),
    ),
}  # fmt: skip

# The known changes are in more modules.
MORE_TESTS = (
    "augment/test_draws.py", "augment/test_transforms.py", "dataset/test_cache.py", "dataset/test_folder.py",
    "evaluation/test_predict.py", "model/test_ema.py", "model/test_ghost_norm.py", "model/test_initialization.py",
    "model/test_network.py", "test_schedule.py", "training/test_optimizer.py",
)  # fmt: skip
