"""Tests of the metrics: values of scikit-learn, and replicates equal to the same metric on the drawn images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)  # fmt: skip

from cxrfeat.io.schema import METRICS
from cxrfeat.labels.findings import ANY_FINDING
from head_training.evaluation.bootstrap import PatientBootstrap, percentile_interval
from head_training.evaluation.metrics import (
    NO_CLASS,
    NO_DENOMINATOR,
    NO_THRESHOLD,
    MetricRow,
    Sample,
    SampleKey,
    calibration_metrics,
    ranking_metrics,
    threshold_metrics,
)

FINDINGS = ("Mass", "Edema", "Hernia")
KEY = SampleKey("test", scale="score")


def make(seed: int = 0, *, images: int = 80, resamples: int = 40, rare: float = 0.3) -> tuple[Sample, np.ndarray]:
    """Return a sample with tied scores, and its patients."""
    random = np.random.default_rng(seed)
    labels = random.uniform(size=(images, 3)) < [0.4, 0.3, rare]
    probabilities = (0.3 * labels + random.uniform(0, 0.7, size=labels.shape)).round(1)
    patients = random.integers(25, size=images)
    return Sample(KEY, FINDINGS, labels, probabilities, PatientBootstrap(patients, resamples=resamples)), patients


def resampled(sample: Sample, patients: np.ndarray) -> Iterator[Sample]:
    """Yield the images of each resample as a sample of their own, drawn one by one."""
    for counts in sample.bootstrap.counts.T:
        drawn = [np.flatnonzero(patients == name) for name in np.unique(patients)]
        rows = np.concatenate([np.tile(found, int(count)) for found, count in zip(drawn, counts, strict=True)])
        own = PatientBootstrap(rows, resamples=1)
        yield Sample(KEY, FINDINGS, sample.labels[rows], sample.probabilities[rows], own)


Metrics = Callable[[Sample], Iterator[MetricRow]]
THRESHOLDS = {"Mass": 0.5, "Edema": 0.3, "Hernia": 0.4}


@pytest.mark.parametrize(
    "metrics",
    [ranking_metrics, calibration_metrics, lambda sample: threshold_metrics(sample, "youden", THRESHOLDS)],
    ids=["rank", "calibration", "point"],
)
def test_each_interval_is_that_of_the_metric_over_resamples(metrics: Metrics) -> None:
    """Every number that has an interval: drawing the images and measuring again gives it, to 1e-12."""
    sample, patients = make(resamples=20)
    replicates: dict[tuple[str, str], list[float]] = {}
    for drawn in resampled(sample, patients):
        for number in metrics(drawn):
            value = np.nan if number.value is None else number.value
            replicates.setdefault((number.scope, number.metric), []).append(value)
    numbers = [number for number in metrics(sample) if number.resamples is not None]
    assert len(numbers) >= 8
    for number in numbers:
        expected = percentile_interval(replicates[number.scope, number.metric])
        assert (number.low, number.high, number.resamples) == pytest.approx(
            (expected.low, expected.high, expected.resamples), abs=1e-12
        )


def values(numbers: Iterator[MetricRow]) -> dict[tuple[str, str], float | None]:
    return {(number.scope, number.metric): number.value for number in numbers}


@pytest.mark.parametrize("seed", range(5))
def test_ranking_is_scikit_learns(seed: int) -> None:
    """AUROC and average precision of findings, macro and micro, to 1e-12."""
    sample, _ = make(seed)
    found = values(ranking_metrics(sample))
    for metric, score in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        for column, finding in enumerate(FINDINGS):
            expected = score(sample.labels[:, column], sample.probabilities[:, column])
            assert found[finding, metric] == pytest.approx(expected, abs=1e-12)
        for average in ("macro", "micro"):
            expected = score(sample.labels, sample.probabilities, average=average)
            assert found[average, metric] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_operating_points_are_scikit_learns(seed: int) -> None:
    """Rates of each finding and every average of precision, recall and F1, to 1e-12."""
    sample, _ = make(seed)
    found = values(threshold_metrics(sample, "youden", THRESHOLDS))
    predicted_positive = sample.probabilities >= [THRESHOLDS[finding] for finding in FINDINGS]
    for column, finding in enumerate(FINDINGS):
        pair = (sample.labels[:, column], predicted_positive[:, column])
        inverse = (~pair[0], ~pair[1])
        for metric, expected in {
            "sensitivity": recall_score(*pair), "ppv": precision_score(*pair), "f1": f1_score(*pair),
            "specificity": recall_score(*inverse), "npv": precision_score(*inverse), "accuracy": accuracy_score(*pair),
        }.items():  # fmt: skip
            assert found[finding, metric] == pytest.approx(expected, abs=1e-12)
        assert sum(found[finding, cell] or 0 for cell in ("tp", "fp", "tn", "fn")) == len(predicted_positive)
    for average in ("micro", "macro", "weighted", "samples"):
        for metric, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            expected = score(sample.labels, predicted_positive, average=average, zero_division=0)
            assert found[average, metric] == pytest.approx(expected, abs=1e-12)


def test_calibration_is_scikit_learns_brier_and_a_loop_over_bins() -> None:
    """And their means over findings."""
    sample, _ = make(3)
    found = values(calibration_metrics(sample))
    errors = []
    for column, finding in enumerate(FINDINGS):
        labels, probabilities = sample.labels[:, column], sample.probabilities[:, column]
        assert found[finding, "brier"] == pytest.approx(brier_score_loss(labels, probabilities), abs=1e-12)
        error = 0.0
        for low in range(15):
            high = low + 1 if low < 14 else 16
            inside = (probabilities >= low / 15) & (probabilities < high / 15)
            error += abs((labels[inside] - probabilities[inside]).sum()) / len(labels)
        errors.append(error)
        assert found[finding, "ece"] == pytest.approx(error, abs=1e-12)
    assert found["macro", "ece"] == pytest.approx(np.mean(errors), abs=1e-12)


def test_a_finding_without_a_class_is_null_and_says_so() -> None:
    """No AUROC, no threshold; the mean and the averages say over how many findings they are."""
    sample, _ = make(rare=0.0)
    numbers = {(number.scope, number.metric): number for number in ranking_metrics(sample)}
    hernia = numbers["Hernia", "auroc"]
    assert (hernia.value, hernia.low, hernia.positives, hernia.images, hernia.note) == (None, None, 0, 80, NO_CLASS)
    assert numbers["macro", "auroc"].note == "mean over 2 of 3 findings"
    both = [numbers[finding, "auroc"].value for finding in ("Mass", "Edema")]
    assert numbers["macro", "auroc"].value == pytest.approx(np.mean([value for value in both if value is not None]))
    points = {(n.scope, n.metric): n for n in threshold_metrics(sample, "f1", {**THRESHOLDS, "Hernia": None})}
    assert (points["Hernia", "ppv"].value, points["Hernia", "ppv"].note) == (None, NO_THRESHOLD)
    assert points["macro", "f1"].note == "over 2 of 3 findings"
    fixed = {(n.scope, n.metric): n for n in threshold_metrics(sample, "fixed_0.20", dict.fromkeys(FINDINGS, 0.2))}
    assert (fixed["Hernia", "sensitivity"].value, fixed["Hernia", "sensitivity"].note) == (None, NO_DENOMINATOR)
    assert fixed["Hernia", "specificity"].value is not None


def test_nothing_can_be_said_without_thresholds() -> None:
    """Null rows for each finding, and no average."""
    sample, _ = make()
    numbers = list(threshold_metrics(sample, "youden", dict.fromkeys(FINDINGS)))
    assert {number.scope for number in numbers} == set(FINDINGS)
    assert all((number.value, number.note) == (None, NO_THRESHOLD) for number in numbers)


def test_equal_scores_are_chance() -> None:
    """AUROC one half and average precision the prevalence, with intervals that say the same."""
    sample, _ = make()
    flat = Sample(KEY, FINDINGS, sample.labels, np.full_like(sample.probabilities, 0.5), sample.bootstrap)
    numbers = {(number.scope, number.metric): number for number in ranking_metrics(flat)}
    auroc, precision = numbers["Mass", "auroc"], numbers["Mass", "average_precision"]
    assert (auroc.value, auroc.low, auroc.high) == (0.5, 0.5, 0.5)
    assert precision.value == pytest.approx(sample.labels[:, 0].mean())


def test_triage_has_no_averages_and_a_single_label_is_its_own() -> None:
    """Triage has only its own rows; with one label, the macro average is the label."""
    sample, _ = make()
    parts = (sample.labels[:, :1], sample.probabilities[:, :1], sample.bootstrap)
    for scope in (ANY_FINDING, "Mass"):
        single = Sample(KEY, (scope,), *parts)
        for numbers in (
            ranking_metrics(single),
            threshold_metrics(single, "youden", {scope: 0.5}),
            calibration_metrics(single),
        ):
            values = {(number.scope, number.metric): number.value for number in numbers}
            assert ({scope} == {found for found, _ in values}) == (scope == ANY_FINDING)
            for metric in ("auroc", "brier"):
                assert values.get(("macro", metric)) == (values.get((scope, metric)) if scope == "Mass" else None)


def test_unknown_cells_are_left_out_of_every_metric() -> None:
    """Metrics of a masked sample equal those of a sample of the known rows of each finding, intervals included."""
    sample, patients = make()
    known = np.random.default_rng(3).uniform(size=sample.labels.shape) < 0.6
    labels = sample.labels & known
    masked = Sample(KEY, FINDINGS, labels, sample.probabilities, sample.bootstrap, known)
    thresholds = dict.fromkeys(FINDINGS, 0.5)
    found = {
        (row.scope, row.metric): row
        for rows in (
            ranking_metrics(masked),
            threshold_metrics(masked, "youden", thresholds),
            calibration_metrics(masked),
        )
        for row in rows
    }
    for column, finding in enumerate(FINDINGS):
        rows, label = known[:, column], sample.labels[known[:, column], column]
        score = sample.probabilities[rows, column]
        assert found[finding, "auroc"].value == pytest.approx(roc_auc_score(label, score))
        assert found[finding, "average_precision"].value == pytest.approx(average_precision_score(label, score))
        assert found[finding, "brier"].value == pytest.approx(np.mean((label - score) ** 2))
        assert found[finding, "f1"].value == pytest.approx(f1_score(label, score >= 0.5))
        assert found[finding, "specificity"].value == pytest.approx(recall_score(~label, score < 0.5))
        assert found[finding, "auroc"].images == rows.sum()
        assert found[finding, "auroc"].patients == len(set(np.asarray(patients)[rows]))
        low, high = found[finding, "auroc"].low, found[finding, "auroc"].high
        assert low is not None
        assert high is not None
        assert low <= roc_auc_score(label, score) <= high
    cells = known.ravel()
    micro = roc_auc_score(sample.labels.ravel()[cells], sample.probabilities.ravel()[cells])
    assert found["micro", "auroc"].value == pytest.approx(micro)


def test_a_number_is_a_row_of_the_table() -> None:
    """Fields and columns have the same names, and each number carries its counts."""
    sample, patients = make()
    number = next(ranking_metrics(sample))
    assert set(asdict(number)) == set(METRICS.names)
    expected = (80, len(np.unique(patients)), sample.labels[:, 0].sum())
    assert (number.images, number.patients, number.positives) == expected
