"""Evaluation of a network on a split: logits, and the metrics computed from them."""

from scsuite.core.evaluation.evaluate import evaluate
from scsuite.core.evaluation.metrics import Evaluation, compute_metrics

__all__ = ["Evaluation", "compute_metrics", "evaluate"]
