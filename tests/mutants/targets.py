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
        (
            "core/training/test_step.py", "core/training/test_step_ranks.py", "core/training/test_step_graph.py",
            "core/training/test_loop.py",
        ),
    ),
    "loader": Target(
        (f"{TRAINING}/loader.py",),
        ("core/training/test_loader.py", "core/training/test_workers.py", "core/training/test_setup.py"),
    ),
    "normalisation": Target(
        ("scsuite/core/dataset/split.py", f"{TRAINING}/setup.py"),
        (
            "core/dataset/test_split.py", "core/training/test_setup.py", "core/training/test_step.py",
            "core/training/test_step_ranks.py", "core/evaluation/test_evaluate.py", "core/training/test_trainer.py",
            "core/training/test_own_network.py", "core/dataset/test_arrays.py",
        ),
    ),
    "checkpoint": Target(
        (
            "scsuite/core/model/checkpoint.py", "scsuite/core/model/checkpoint_file.py",
            "scsuite/core/runs/checkpoints.py", f"{TRAINING}/state.py",
        ),
        (
            "core/model/test_checkpoint.py", "core/training/test_state.py", "core/training/test_trainer.py",
            "core/training/test_resume.py", "core/runs/test_rundir.py", "core/training/test_own_network.py",
        ),
    ),
    "resume": Target(
        (f"{TRAINING}/resume.py",),
        ("core/training/test_resume.py", "core/training/test_own_network.py", "core/training/test_step_graph.py"),
    ),
    "rules": Target(
        ("scsuite/core/lr_range/rules.py", "scsuite/core/lr_range/sweep.py"), ("core/lr_range/test_rules.py",)
    ),
    "metrics": Target(
        ("scsuite/core/evaluation/metrics.py",),
        ("core/evaluation/test_metrics.py", "core/evaluation/test_evaluate.py"),
    ),
    "maps": Target(("scsuite/core/cam/maps.py",), ("core/cam/test_maps.py",)),
    "rundir": Target(
        ("scsuite/core/runs/rundir.py",),
        ("core/runs/test_rundir.py", "core/runs/test_results.py", "core/training/test_trainer.py"),
    ),
}  # fmt: skip

# The known changes are in more modules.
MORE_TESTS = (
    "core/augment/test_default.py", "core/augment/test_draws.py", "core/augment/test_transforms.py",
    "core/dataset/test_cache.py", "core/dataset/test_folder.py", "core/evaluation/test_predict.py",
    "core/lr_range/test_range_test.py", "core/model/test_ema.py", "core/model/test_ghost_norm.py",
    "core/model/test_initialization.py", "core/model/test_network.py", "core/test_schedule.py",
    "core/training/test_optimizer.py",
)  # fmt: skip
