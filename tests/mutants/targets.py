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
            "core/model/test_checkpoint.py", "core/training/test_state.py", "core/runs/test_rundir.py",
            "core/model/test_ema.py", "core/training/test_trainer.py", "core/training/test_own_network.py",
        ),
    ),
    "resume": Target(
        (f"{TRAINING}/resume.py",),
        ("core/training/test_resume.py", "core/training/test_own_network.py", "core/training/test_step_graph.py"),
    ),
    "rules": Target(
        ("scsuite/core/lr_range/rules.py", "scsuite/core/lr_range/sweep.py"),
        ("core/lr_range/test_rules.py", "core/lr_range/test_range_test.py"),
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

# The tests of the other modules that known.py changes.
MORE_TESTS = {
    "scsuite/core/augment/default.py": ("core/augment/test_default.py",),
    "scsuite/core/augment/policy.py": ("core/evaluation/test_evaluate.py", "core/augment/test_policy.py"),
    "scsuite/core/augment/transforms.py": ("core/augment/test_transforms.py", "core/augment/test_draws.py"),
    "scsuite/core/dataset/__init__.py": ("core/dataset/test_load_dataset.py", "cli/test_fit.py"),
    "scsuite/core/dataset/cache.py": ("core/dataset/test_cache.py",),
    "scsuite/core/dataset/folder_walk.py": ("core/dataset/test_folder.py",),
    "scsuite/core/evaluation/evaluate.py": ("core/evaluation/test_evaluate.py",),
    "scsuite/core/lr_range/range_test.py": ("core/lr_range/test_range_test.py", "core/training/test_own_network.py"),
    "scsuite/core/lr_range/run_sweep.py": ("core/lr_range/test_range_test.py",),
    "scsuite/core/model/ema.py": ("core/model/test_ema.py",),
    "scsuite/core/model/initialization.py": ("core/model/test_initialization.py",),
    "scsuite/core/model/network.py": ("core/model/test_network.py", "core/model/test_ghost_norm.py"),
    "scsuite/core/schedule.py": ("core/test_schedule.py",),
    f"{TRAINING}/checkpoint_schedule.py": ("core/training/test_trainer.py",),
    f"{TRAINING}/loop.py": ("core/training/test_loop.py", "core/training/test_trainer.py"),
    f"{TRAINING}/optimizer.py": ("core/training/test_optimizer.py", "core/training/test_step.py"),
    f"{TRAINING}/trainer.py": ("core/training/test_trainer.py", "core/model/test_ema.py"),
}


def tests_of(path: str) -> tuple[str, ...]:
    """Return the test files of a source file."""
    own = [test for target in TARGETS.values() if path in target.sources for test in target.tests]
    return tuple(f"tests/{test}" for test in own or MORE_TESTS[path])
