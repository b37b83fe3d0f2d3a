"""Metrics against cases computed by hand, against torch and against torchmetrics."""

import json
import statistics
from functools import partial

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from torch.nn import functional

from scsuite.core.evaluation.metrics import (
    Z_95,
    ConfusedPair,
    Evaluation,
    baseline_warning,
    chance_accuracy_bound,
    compute_calibration,
    compute_metrics,
    is_uneven,
    majority_class,
    majority_fraction,
    wilson_interval,
)

NAMES = ("cat", "dog", "owl", "yak")
# Logits are log probabilities here, so the probabilities are these rows. `yak` is never predicted, `owl` has no images.
PROBABILITIES = [
    [0.70, 0.10, 0.10, 0.10],  # 0: cat, correct
    [0.10, 0.60, 0.20, 0.10],  # 1: cat, predicted dog
    [0.05, 0.05, 0.85, 0.05],  # 2: dog, predicted owl
    [0.20, 0.50, 0.20, 0.10],  # 3: dog, correct
    [0.05, 0.90, 0.03, 0.02],  # 4: yak, predicted dog
    [0.10, 0.60, 0.20, 0.10],  # 5: cat, predicted dog, as confident as 1
]
LABELS = [0, 0, 1, 1, 3, 0]


@pytest.fixture
def evaluation() -> Evaluation:
    return compute_metrics(torch.tensor(PROBABILITIES).log(), torch.tensor(LABELS), NAMES)


def test_loss_and_accuracy_are_means_over_images(evaluation: Evaluation) -> None:
    probabilities = [0.70, 0.10, 0.05, 0.50, 0.02, 0.10]  # the actual classes' probabilities
    assert evaluation.loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-6)
    assert evaluation.losses_N == pytest.approx(-np.log(probabilities), rel=1e-6)
    assert evaluation.accuracy == pytest.approx(2 / 6)
    assert evaluation.num_images == 6


def test_the_loss_is_torchs_cross_entropy_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 10, generator=generator) * 20
    labels = torch.randint(0, 10, (500,), generator=generator)
    ours = compute_metrics(logits, labels, tuple("abcdefghij"))
    assert ours.loss == pytest.approx(functional.cross_entropy(logits.double(), labels).item(), rel=1e-12)
    assert ours.accuracy == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item())
    torch.testing.assert_close(torch.from_numpy(ours.probabilities_NK), logits.softmax(dim=1), rtol=1e-4, atol=1e-7)


def test_logits_of_half_precision_and_of_any_size_give_finite_metrics() -> None:
    logits = torch.tensor([[3e4, -3e4], [3e4, -3e4]], dtype=torch.bfloat16)
    ours = compute_metrics(logits, torch.tensor([0, 1]), ("a", "b"))
    assert ours.losses_N.tolist() == pytest.approx([0.0, float(logits[1, 0] - logits[1, 1])])
    assert np.isfinite(ours.probabilities_NK).all()


def test_the_confusion_matrix_has_the_actual_classes_in_rows(evaluation: Evaluation) -> None:
    assert evaluation.confusion_KK.tolist() == [
        [1, 2, 0, 0],  # cat: one correct, two predicted dog
        [0, 1, 1, 0],  # dog
        [0, 0, 0, 0],  # owl: no images
        [0, 1, 0, 0],  # yak
    ]


def test_the_confusion_matrix_sums_to_the_images_of_each_class() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 7, 300)
    logits = rng.normal(size=(300, 7))
    ours = compute_metrics(torch.from_numpy(logits), torch.from_numpy(labels), tuple("abcdefg"))
    assert ours.confusion_KK.sum() == 300
    assert ours.confusion_KK.sum(axis=1).tolist() == [(labels == k).sum() for k in range(7)]
    assert ours.confusion_KK.sum(axis=0).tolist() == [(logits.argmax(axis=1) == k).sum() for k in range(7)]
    assert ours.accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean())


def test_per_class_metrics_are_0_for_classes_never_predicted_and_none_for_classes_without_images(
    evaluation: Evaluation,
) -> None:
    rows = {row.name: (row.precision, row.recall, row.f1, row.support) for row in evaluation.per_class()}
    assert rows["cat"] == pytest.approx((1, 1 / 3, 0.5, 3))  # f1 = 2 * 1 * 1/3 / (4/3)
    assert rows["dog"] == pytest.approx((1 / 4, 1 / 2, 1 / 3, 2))  # predicted four times; f1 = 2 * 1/8 / (3/4)
    assert list(rows["owl"]) == [None, None, None, 0]  # predicted once, no images
    assert list(rows["yak"]) == [0, 0, 0, 1]  # never predicted


def test_the_most_confident_mistake_comes_first_and_equal_ones_in_index_order(evaluation: Evaluation) -> None:
    assert evaluation.misclassified.tolist() == [4, 2, 1, 5]  # 0.90, 0.85, 0.60, 0.60
    assert evaluation.predicted_N.tolist() == [0, 1, 2, 1, 1, 1]
    assert evaluation.confidence_N.tolist() == pytest.approx([0.7, 0.6, 0.85, 0.5, 0.9, 0.6])


def test_of_equally_probable_classes_the_first_is_predicted() -> None:
    assert compute_metrics(torch.zeros(1, 3), torch.tensor([2]), ("a", "b", "c")).predicted_N.tolist() == [0]


def test_the_most_confused_pairs_come_first_and_pairs_without_mistakes_are_omitted(evaluation: Evaluation) -> None:
    pairs = [
        ConfusedPair("cat", "dog", 2, 2 / 3),
        ConfusedPair("dog", "owl", 1, 1 / 2),
        ConfusedPair("yak", "dog", 1, 1.0),
    ]
    assert evaluation.most_confused(1) == pairs[:1]
    assert evaluation.most_confused(10) == pairs


def test_a_network_without_mistakes_has_no_confused_pairs() -> None:
    perfect = compute_metrics(20 * torch.eye(4), torch.arange(4), NAMES)
    assert (perfect.accuracy, len(perfect.misclassified), perfect.most_confused(5)) == (1.0, 0, [])
    assert perfect.calibration.ece == pytest.approx(0, abs=1e-6)


def test_the_calibration_error_of_a_case_computed_by_hand() -> None:
    # Bins are a fifteenth wide: 0.9 and 0.88 lie in (13/15, 14/15], 0.95 in the last, 0.5 in (7/15, 8/15].
    confidence = np.array([0.9, 0.88, 0.95, 0.5], dtype=np.float32)
    ours = compute_calibration(confidence, np.array([True, False, True, False]))
    assert {b: int(n) for b, n in enumerate(ours.count_B) if n} == {7: 1, 13: 2, 14: 1}
    assert ours.accuracy_B[[7, 13, 14]].tolist() == [0, 0.5, 1]
    assert ours.confidence_B[[7, 13, 14]].tolist() == pytest.approx([0.5, 0.89, 0.95])
    assert ours.ece == pytest.approx((1 * 0.5 + 2 * 0.39 + 1 * 0.05) / 4)


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_lower_one() -> None:
    edges = np.array([k / 15 for k in range(1, 16)], dtype=np.float32)
    assert compute_calibration(edges, np.ones(15, bool)).count_B.tolist() == [1] * 15
    just_above = np.nextafter(np.float32(3 / 15), np.float32(1)) + np.float32(1e-6)
    assert compute_calibration(np.array([just_above]), np.ones(1, bool)).count_B.argmax() == 3


def test_a_confidence_that_rounding_puts_above_one_belongs_to_the_last_bin() -> None:
    assert compute_calibration(np.array([1.0000001], np.float32), np.ones(1, bool)).count_B.tolist() == [0] * 14 + [1]


def test_the_calibration_error_of_a_constant_confidence_is_its_distance_from_the_accuracy() -> None:
    correct = np.arange(100) < 60
    assert compute_calibration(np.full(100, 0.99, np.float32), correct).ece == pytest.approx(0.39, abs=1e-6)


def test_the_dictionary_has_plain_values_of_the_same_metrics(evaluation: Evaluation) -> None:
    metrics = json.loads(json.dumps(evaluation.to_dict()))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["num_images"] == 6
    assert metrics["per_class"][1] == {
        "name": "dog", "precision": 0.25, "recall": 0.5, "recall_ci95": list(wilson_interval(1, 2)),
        "f1": pytest.approx(1 / 3), "support": 2,
    }  # fmt: skip
    assert metrics["per_class"][2] == {
        "name": "owl", "precision": None, "recall": None, "recall_ci95": None, "f1": None, "support": 0,
    }  # fmt: skip
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 3 + 1 / 2) / 3)  # of cat, dog and yak
    assert metrics["accuracy_ci95"] == list(wilson_interval(2, 6))
    assert metrics["top5_accuracy"] is None  # of four classes
    assert metrics["confusion_matrix"][0] == [1, 2, 0, 0]
    assert metrics["confusion_normalized"] == [[1 / 3, 2 / 3, 0, 0], [0, 1 / 2, 1 / 2, 0], [0] * 4, [0, 1, 0, 0]]
    assert metrics["most_confused"][0] == {"actual": "cat", "predicted": "dog", "count": 2, "fraction": 2 / 3}
    assert metrics.items() >= evaluation.summary().items()
    # Of cat, dog and yak, which have images; precision 1, 1/4, 0.
    assert metrics["macro"] == pytest.approx({"precision": 1.25 / 3, "recall": (1 / 3 + 1 / 2) / 3, "f1": (5 / 6) / 3})
    # By bins: 0.70 correct; 0.60 wrong twice; 0.85 wrong; 0.50 correct; 0.90 wrong.
    assert metrics["ece"] == pytest.approx((0.3 + 1.2 + 0.85 + 0.5 + 0.9) / 6, abs=1e-6)


def sample(num_classes: int, absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a network that is sometimes correct, and labels, without those of the class `absent`."""
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.randint(0, num_classes, (1000,), generator=generator)
    labels = labels if absent is None else labels[labels != absent]
    logits = 2 * torch.randn(len(labels), num_classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += 2
    return logits, labels


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_torchmetrics_agrees_on_every_metric(num_classes: int) -> None:
    logits, labels = sample(num_classes)
    ours = compute_metrics(logits, labels, tuple(f"c{k}" for k in range(num_classes)))
    rows = ours.per_class()
    accuracy = partial(reference.multiclass_accuracy, logits, labels, num_classes)
    assert ours.accuracy == pytest.approx(accuracy(average="micro").item())
    if num_classes > 5:
        assert ours.top5_accuracy == pytest.approx(accuracy(average="micro", top_k=5).item())
    assert [row.recall for row in rows] == pytest.approx(accuracy(average=None).tolist())
    for name in ("precision", "recall", "f1_score"):
        measure = partial(getattr(reference, f"multiclass_{name}"), logits, labels, num_classes)
        attribute = name.partition("_")[0]
        assert [getattr(row, attribute) for row in rows] == pytest.approx(measure(average=None).tolist())
        assert getattr(ours.macro(), attribute) == pytest.approx(measure(average="macro").item())
    confusion = partial(reference.multiclass_confusion_matrix, logits, labels, num_classes)
    assert ours.confusion_KK.tolist() == confusion().tolist()
    np.testing.assert_allclose(ours.confusion_normalized_KK, confusion(normalize="true"), rtol=1e-6)
    ece = reference.multiclass_calibration_error(logits.softmax(dim=1), labels, num_classes, n_bins=15, norm="l1")
    assert ours.calibration.ece == pytest.approx(ece.item(), abs=1e-6)


def test_macro_metrics_are_over_the_classes_that_have_images() -> None:
    logits, labels = sample(10, absent=3)
    ours = compute_metrics(logits, labels, tuple("abcdefghij"))
    present = [k for k in range(10) if k != 3]
    assert (ours.predicted_N == 3).any()  # torchmetrics counts it as a tenth class with recall 0
    for name in ("precision", "recall", "f1_score"):
        by_class = getattr(reference, f"multiclass_{name}")(logits, labels, 10, average=None)
        assert getattr(ours.macro(), name.partition("_")[0]) == pytest.approx(by_class[present].mean().item())


def test_top_5_takes_equally_probable_classes_in_order_as_the_prediction_does() -> None:
    uniform = compute_metrics(torch.zeros(7, 7), torch.arange(7), tuple("abcdefg"))
    assert uniform.top5_accuracy == pytest.approx(5 / 7)
    assert compute_metrics(torch.zeros(5, 5), torch.arange(5), tuple("abcde")).top5_accuracy is None  # always 1
    assert uniform.accuracy == pytest.approx(1 / 7)


@pytest.mark.parametrize(("num_correct", "num_images"), [(1, 2), (37, 50), (9312, 10000), (1, 10000)])
def test_the_ends_of_wilsons_interval_solve_the_equation_that_defines_it(num_correct: int, num_images: int) -> None:
    """|num_correct / n - p| = z sqrt(p (1 - p) / n), before it is solved for p."""
    assert abs(Z_95 - statistics.NormalDist().inv_cdf(0.975)) < 1e-12
    for p in wilson_interval(num_correct, num_images):
        expected = Z_95 * (p * (1 - p) / num_images) ** 0.5
        assert abs(num_correct / num_images - p) == pytest.approx(expected, rel=1e-9)


def test_wilsons_interval_is_the_one_of_the_textbook() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3.
    for num_correct, num_images, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ):
        assert wilson_interval(num_correct, num_images) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilsons_interval_has_a_width_without_mistakes_and_stays_in_bounds() -> None:
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)
    assert all(0 <= wilson_interval(k, n)[0] <= wilson_interval(k, n)[1] <= 1 for n in range(1, 300) for k in (0, n))
    assert wilson_interval(0, 0) == (0, 1)  # an empty sample


def test_guesses_exceed_the_bound_of_chance_accuracy_about_2_times_in_100() -> None:
    assert chance_accuracy_bound(10, 2000) == pytest.approx(0.1 + 2 * (0.1 * 0.9 / 2000) ** 0.5)
    num_correct = np.random.default_rng(0).binomial(2000, 0.1, 100_000)
    assert (num_correct / 2000 > chance_accuracy_bound(10, 2000)).mean() == pytest.approx(0.023, abs=0.005)


def test_a_network_that_predicts_one_class_has_the_accuracy_of_the_largest_class() -> None:
    labels = torch.tensor([1] * 9 + [0])
    logits = torch.tensor([[0.0, 1.0]]).expand(10, 2)
    constant = compute_metrics(logits, labels, ("cat", "dog"))
    assert constant.accuracy == majority_class(labels.numpy())[1] == 0.9
    assert majority_class(labels.numpy())[0] == 1
    assert constant.balanced_accuracy == 0.5  # torchmetrics' and scikit-learn's value for a constant prediction
    assert constant.only_predicted_class == "dog"
    assert is_uneven(labels.numpy()) and not is_uneven(np.array([3, 3, 7, 7]))
    assert compute_metrics(logits[:9], labels[:9], ("cat", "dog")).only_predicted_class is None  # all are dogs
    assert compute_metrics(-logits, labels, ("cat", "dog")).only_predicted_class == "cat"


def test_a_training_is_compared_with_the_largest_class_where_classes_are_uneven() -> None:
    names, uneven, even = ("cat", "dog"), np.array([0] * 90 + [1] * 10), np.arange(100) % 2
    assert baseline_warning(0.9, uneven, names) == "never exceeded the fraction of the largest class (90.0 %, cat)"
    assert baseline_warning(0.91, uneven, names) is None
    assert baseline_warning(0.52, even, names) == "never exceeded chance (50 %)"
    assert baseline_warning(chance_accuracy_bound(2, 100), even, names) == "never exceeded chance (50 %)"
    assert baseline_warning(0.9, even, names) is None


def test_the_fraction_of_the_largest_class_is_only_that_of_uneven_classes() -> None:
    assert majority_fraction(np.array([2, 2, 0, 2])) == 0.75
    assert majority_fraction(np.array([2, 0, 0, 2])) is None


def test_many_equal_values_keep_their_order() -> None:
    # numpy's unstable sort keeps the order of few equal values only.
    names = tuple(f"c{k:02d}" for k in range(30))
    labels = torch.arange(60) % 30
    logits = torch.zeros(60, 30)
    logits[torch.arange(60), (labels + 1) % 30] = 2.0  # each class is taken for the next one, twice
    ours = compute_metrics(logits, labels, names)
    assert ours.misclassified.tolist() == list(range(60))
    confused = [(pair.actual, pair.predicted) for pair in ours.most_confused(30)]
    assert confused[:3] == [("c00", "c01"), ("c01", "c02"), ("c02", "c03")]
    assert confused == sorted(confused)
    assert len(ours.to_dict()["most_confused"]) == 10


def test_the_dictionary_has_the_keys_that_scripts_read(evaluation: Evaluation) -> None:
    # As runs/README.md lists them.
    summary = {"accuracy", "accuracy_ci95", "balanced_accuracy", "top5_accuracy", "loss", "ece", "macro"}
    assert evaluation.summary().keys() == summary
    assert evaluation.to_dict().keys() == summary | {
        "num_images", "per_class", "confusion_matrix", "confusion_normalized", "most_confused",
    }  # fmt: skip
    assert evaluation.summary()["loss"] == pytest.approx(evaluation.losses_N.mean())
    assert list(evaluation.summary()["accuracy_ci95"]) == list(wilson_interval(2, 6))
