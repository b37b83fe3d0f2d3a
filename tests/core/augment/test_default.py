"""The default policy without albumentations is the one with it. Run: pytest tests/core/augment/test_default.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scsuite.core.augment import DefaultPolicy, check_backend, compile_policy, default_policy, policy_dict
from scsuite.core.augment import policy_mean_std as mean_std
from tests.run_cli import child_environment

RNG = np.random.default_rng(0)
MEANS_STDS = [tuple(tuple(RNG.uniform(0.1, 0.9, 3).tolist()) for _ in range(2)) for _ in range(5)]


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("mean", "std"), MEANS_STDS)
def test_it_has_the_transforms_the_bits_and_the_values_of_the_compiled_albumentations_policy(
    mean: tuple[float, ...], std: tuple[float, ...], flip: bool
) -> None:
    ours, theirs = DefaultPolicy(mean, std, flip), default_policy(mean, std, flip=flip)
    compiled = compile_policy(theirs)
    assert ours.batched().transforms == compiled.transforms
    assert np.array_equal(ours.batched()._mean_3, compiled._mean_3)
    assert np.array_equal(ours.batched()._scale_3, compiled._scale_3)
    assert policy_dict(ours) == policy_dict(theirs)  # a resume compares these values
    assert mean_std(ours) == mean_std(theirs)


def test_only_the_albumentations_backend_is_without_a_batched_policy() -> None:
    assert check_backend("auto", None).name == check_backend("batched", None).name == "batched"
    assert check_backend("albumentations", None).batched_policy is None


def test_a_training_on_the_defaults_imports_neither_albumentations_nor_matplotlib_before_its_last_step(
    tmp_path: Path,
) -> None:
    code = (
        "import sys\n"
        "from scsuite.cli import train_run, app\n"
        "from scsuite.core.training import loop\n"
        "original = loop._evaluate_epoch\n"
        "def evaluate(*args):\n"
        "    result = original(*args)\n"
        "    print({'albumentations', 'matplotlib', 'cv2', 'torchvision'} & set(sys.modules) or 'none')\n"
        "    sys.exit(0)\n"
        "loop._evaluate_epoch = evaluate\n"
        "app.main(sys.argv[1:])\n"
    )
    arguments = "train --data shapes --limit-train 32 --limit-test 10 --width 0.05 --bs 16 --epochs 1 --lr-max 0.1"
    completed = subprocess.run(
        [sys.executable, "-c", code, *arguments.split(), "--device", "cpu", "--quiet", "--runs-dir", tmp_path],
        capture_output=True, text=True, timeout=120, check=False, env=child_environment(),
    )  # fmt: skip
    assert "none" in completed.stdout, completed.stdout + completed.stderr
