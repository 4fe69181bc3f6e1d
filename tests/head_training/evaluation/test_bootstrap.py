"""Tests of the bootstrap: the same numbers as a loop over resamples with scikit-learn, and correct coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from head_training.evaluation import bootstrap
from head_training.evaluation.bootstrap import Interval, PatientBootstrap, percentile_interval


def sample(seed: int, *, images: int = 60, patients: int = 12, decimals: int = 1) -> tuple[np.ndarray, ...]:
    """Return patients (N,), labels (N, 2) and scores (N, 2), most of them tied."""
    random = np.random.default_rng(seed)
    labels = random.uniform(size=(images, 2)) < 0.3
    scores = (labels * 0.3 + random.uniform(size=(images, 2))).round(decimals)
    return random.integers(patients, size=images), labels, scores


def drawn_images(patients: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rows of a resample, each as often as its patient was drawn."""
    names = np.unique(patients)
    rows = [
        np.flatnonzero(patients == name) for name, count in zip(names, counts, strict=True) for _ in range(int(count))
    ]
    return np.concatenate(rows)


def reference(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    if labels.all() or not labels.any():
        return math.nan, math.nan
    return roc_auc_score(labels, scores), average_precision_score(labels, scores)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_each_replicate_is_scikit_learns_number_of_the_drawn_images(seed: int, decimals: int) -> None:
    """AUROC and average precision of one finding and of both in one ranking, to 1e-12; NaN where a class is absent."""
    patients, labels, scores = sample(seed, images=25, patients=5, decimals=decimals)
    resamples = PatientBootstrap(patients, resamples=8, seed=seed)
    one, both = resamples.rank(labels[:, 0], scores[:, 0]), resamples.rank_micro(labels, scores)
    for number, counts in enumerate(resamples.counts.T):
        rows = drawn_images(patients, counts)
        for found, chosen in ((one, (rows, 0)), (both, (rows,))):
            expected = reference(labels[chosen].ravel(), scores[chosen].ravel())
            np.testing.assert_allclose([statistic[number] for statistic in found], expected, rtol=0, atol=1e-12)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One resample at a time or all together: the same numbers, except for the order of sums."""
    patients, labels, scores = sample(3)
    resamples = PatientBootstrap(patients, resamples=30)
    whole = resamples.rank(labels[:, 0], scores[:, 0])
    monkeypatch.setattr(bootstrap, "_BLOCK_SIZE", 1)
    np.testing.assert_allclose(resamples.rank(labels[:, 0], scores[:, 0]), whole, rtol=1e-14)


def test_sums_are_those_of_the_drawn_images() -> None:
    """Every column, every resample; mean per image included, as the ratio of two sums."""
    patients, labels, scores = sample(4)
    resamples = PatientBootstrap(patients, resamples=10, seed=2)
    values = np.column_stack([labels, scores, np.ones(len(labels))])
    expected = [values[drawn_images(patients, counts)].sum(axis=0) for counts in resamples.counts.T]
    np.testing.assert_allclose(resamples.sums(values), expected, rtol=1e-12)


def test_whole_patients_are_drawn_with_replacement() -> None:
    """Each resample has as many patients as there are; over many, each is drawn once on average, as a binomial."""
    patients = np.array(["b", "a", "b", "c", "b", "d"])
    counts = PatientBootstrap(patients, resamples=4000, seed=5).counts
    assert counts.shape == (4, 4000)
    assert (counts.sum(axis=0) == 4).all()
    np.testing.assert_allclose(counts.mean(axis=1), 1, atol=0.06)
    np.testing.assert_allclose((counts == 0).mean(axis=1), 0.75**4, atol=0.03)


def test_the_seed_decides() -> None:
    """Same seed, same resamples; another seed, others. The order of images does not matter."""
    patients = np.array([3, 1, 2, 3, 1])
    counts = PatientBootstrap(patients, seed=1).counts
    np.testing.assert_array_equal(counts, PatientBootstrap(patients[::-1], seed=1).counts)
    assert (counts != PatientBootstrap(patients, seed=2).counts).any()


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], (math.nan, math.nan)),
        ([1, 1, 1], [0.1, 0.2, 0.3], (math.nan, math.nan)),
        ([0, 1, 1], [0.5, 0.5, 0.5], (0.5, 2 / 3)),
        ([0, 1, 1], [0.1, 0.2, 0.3], (1.0, 1.0)),
        ([1, 0, 0], [0.1, 0.2, 0.3], (0.0, 1 / 3)),
    ],
)
def test_edges(labels: list[int], scores: list[float], expected: tuple[float, float]) -> None:
    """No positive, no negative, equal scores, perfect, reversed: one patient, so every resample is the sample."""
    found = PatientBootstrap(["a"] * 3, resamples=5).rank(labels, scores)
    np.testing.assert_allclose(found, np.transpose([expected] * 5), rtol=0, atol=1e-12)


def test_an_interval_is_that_of_the_defined_replicates() -> None:
    """Percentiles, with how many define them; none where fewer than 95 % do."""
    values = np.arange(100.0)
    for undefined in (0, 5):
        values[:undefined] = np.nan
        found = percentile_interval(values)
        low, high = np.percentile(values[undefined:], [2.5, 97.5])
        assert (found.low, found.high, found.resamples) == pytest.approx((low, high, 100 - undefined))
    values[5] = np.nan
    assert percentile_interval(values) == Interval(None, None, 94)
    assert percentile_interval(np.full(3, np.nan)) == Interval(None, None, 0)


def test_what_does_not_fit_is_refused() -> None:
    """Shapes and counts, with both."""
    resamples = PatientBootstrap(["a", "b"], resamples=2)
    for bad in (resamples.rank, resamples.rank_micro):
        with pytest.raises(ValueError, match=r"labels \(3,\)"):
            bad([0, 1, 1], [0.1, 0.2, 0.3])
    for labels, scores in (([0, 2], [0.1, 0.2]), ([0, 1], [0.1, math.nan])):
        with pytest.raises(ValueError, match="other than 0 and 1, or scores NaN or infinity"):
            resamples.rank(labels, scores)
    with pytest.raises(ValueError, match=r"values \(3, 1\); expected \(2, K\)"):
        resamples.sums([[1], [2], [3]])
    with pytest.raises(ValueError, match="0 images and 1000 resamples"):
        PatientBootstrap([])
    with pytest.raises(ValueError, match="2 images and 0 resamples"):
        PatientBootstrap(["a", "b"], resamples=0)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """500 trials of 120 patients with 1 to 8 similar images: 93–97 % by patient; drawing images covers far less.

    Scores are patient effect + noise, and positive patients are shifted: AUROC is Φ(shift / √(2 variance)).
    """
    random = np.random.default_rng(20)
    shift, patient_sd, image_sd = 1.2, 1.0, 0.5
    ground_truth = 0.5 * (1 + math.erf(shift / math.sqrt(2 * (patient_sd**2 + image_sd**2)) / math.sqrt(2)))
    covered = np.zeros(2)
    for trial in range(500):
        images = random.integers(1, 9, size=120)
        patients = np.repeat(np.arange(120), images)
        positive = random.uniform(size=120) < 0.4
        scores = np.repeat(shift * positive + random.normal(scale=patient_sd, size=120), images)
        scores += random.normal(scale=image_sd, size=len(scores))
        for unit, groups in enumerate((patients, np.arange(len(patients)))):
            auroc, _ = PatientBootstrap(groups, resamples=400, seed=trial).rank(positive[patients], scores)
            found = percentile_interval(auroc)
            assert found.low is not None
            assert found.high is not None
            covered[unit] += found.low <= ground_truth <= found.high
    by_patient, by_image = covered / 500
    assert 0.93 <= by_patient <= 0.97
    assert by_image < 0.75
