"""Evaluation of a network on a split. Run: pytest tests/core/evaluation/test_evaluate.py."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core.augment import normalise
from scsuite.core.dataset import Dataset
from scsuite.core.evaluation.evaluate import evaluate
from scsuite.core.model.network import build_model


@pytest.fixture
def settings(tiny_data: Dataset) -> dict[str, Any]:
    """The normalisation and the class names."""
    mean, std = tiny_data.train.mean_std()
    return {"mean": mean, "std": std, "class_names": tiny_data.class_names}


def test_batch_size_does_not_matter_and_training_mode_is_restored(
    tiny_data: Dataset, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(3, 0.05, seed=0).train()
    one_batch = evaluate(model, tiny_data.test, **settings)
    monkeypatch.setattr(import_module("scsuite.core.evaluation.evaluate"), "EVAL_BATCH_SIZE", 7)  # not the function
    num_batches = 0

    def count() -> None:
        nonlocal num_batches
        num_batches += 1

    many_batches = evaluate(model, tiny_data.test, on_batch=count, **settings)
    assert num_batches == 5  # of 30 images
    assert np.allclose(one_batch.probabilities_NK, many_batches.probabilities_NK, atol=1e-6)
    assert model.training


def test_an_error_ends_an_evaluation_and_training_mode_is_restored(
    tiny_data: Dataset, settings: dict[str, Any]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    model = build_model(3, 0.05, seed=0).train()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tiny_data.test, on_batch=stop, **settings)
    assert model.training


def test_flip_averages_the_logits_of_image_and_mirror_image(tiny_data: Dataset, settings: dict[str, Any]) -> None:
    model = build_model(3, 0.05, seed=0).eval()
    evaluation = evaluate(model, tiny_data.test, tta="flip", **settings)
    images_NHWC, mean, std = tiny_data.test.images_NHWC, settings["mean"], settings["std"]
    flipped_NHWC = np.ascontiguousarray(images_NHWC[:, :, ::-1])
    with torch.no_grad():
        logits = [model(normalise(view, mean, std)) for view in (images_NHWC, flipped_NHWC)]
    expected = (sum(logits) / 2).softmax(dim=1)
    assert np.allclose(evaluation.probabilities_NK, expected.numpy(), atol=1e-5)


def test_flip_shift_averages_over_three_positions_and_their_mirror_images(
    tiny_data: Dataset, settings: dict[str, Any]
) -> None:
    model = build_model(3, 0.05, seed=0).eval()
    evaluation = evaluate(model, tiny_data.test, tta="flip-shift", **settings)
    # Reflected at the border, as in the padding of the training.
    padded_NHWC = np.pad(tiny_data.test.images_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [padded_NHWC[:, offset : offset + 32, offset : offset + 32] for offset in (0, 1, 2)]
    views += [view[:, :, ::-1] for view in views]
    with torch.no_grad():
        logits = [model(normalise(np.ascontiguousarray(v), settings["mean"], settings["std"])) for v in views]
    expected = (sum(logits) / len(logits)).softmax(dim=1)
    assert np.allclose(evaluation.probabilities_NK, expected.numpy(), atol=1e-5)
