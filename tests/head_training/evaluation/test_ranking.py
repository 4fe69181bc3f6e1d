"""Tests of the ranking metrics: scikit-learn's numbers, or None with the counts where they are undefined."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cxrfeat.labels.findings import FINDINGS
from head_training.evaluation.ranking import any_label, auroc_and_ap, aurocs, averaged_metrics, macro_f1, mean_auroc


def sample(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.uniform(size=(count, 14)) < 0.3).astype(np.float32)
    return labels, random.uniform(size=(count, 14)).astype(np.float32).round(1)


@given(st.integers(0, 1000))
def test_auroc_is_the_share_of_pairs_in_order(seed: int) -> None:
    """Each finding's AUROC is P(positive above negative) + half of the ties, counted pair by pair."""
    labels, scores = sample(seed, 12)
    for column, entry in enumerate(aurocs(labels, scores, FINDINGS)):
        positive, negative = scores[labels[:, column] == 1, column], scores[labels[:, column] == 0, column]
        assert (entry.finding, entry.positives, entry.negatives) == (FINDINGS[column], len(positive), len(negative))
        if len(positive) == 0 or len(negative) == 0:
            assert entry.auroc is None
        else:
            differences = positive[:, None] - negative
            assert entry.auroc == pytest.approx(((differences > 0) + 0.5 * (differences == 0)).mean())


def test_findings_without_a_class_are_left_out_of_the_mean() -> None:
    """The mean says over how many findings it is; one row of a class is enough."""
    labels, scores = sample(0)
    labels[:, 0], labels[:, 1] = 0, 1
    labels[:, 2], labels[:, 3] = np.eye(40)[0], 1 - np.eye(40)[0]
    found = aurocs(labels, scores, FINDINGS)
    assert (found[0].auroc, found[0].positives, found[1].auroc, found[1].negatives) == (None, 0, None, 0)
    assert {type(count) for entry in found for count in (entry.positives, entry.negatives)} == {int}, (
        "JSON takes no other"
    )
    expected = np.mean([roc_auc_score(labels[:, column], scores[:, column]) for column in range(2, 14)])
    mean, over = mean_auroc(found)
    assert mean == pytest.approx(expected)
    assert over == 12
    assert mean_auroc(found[:2]) == (None, 0)


def test_macro_f1_is_scikit_learns_at_one_half() -> None:
    """Above 0.5 counts as found; a finding neither present nor predicted counts 0."""
    labels, scores = sample(1)
    labels[:, 0] = scores[:, 0] = 0
    scores[:, 1] = np.nextafter(np.float32(0.5), np.float32(1))
    expected = np.mean([f1_score(labels[:, c], scores[:, c] > 0.5, zero_division=0) for c in range(14)])
    assert macro_f1(labels, scores) == pytest.approx(expected)


def test_scores_that_are_not_finite_are_refused() -> None:
    """NaN never becomes a rank; the error names the finding, or its column."""
    labels, scores = sample(2)
    scores[3, 13] = np.nan
    with pytest.raises(ValueError, match="Hernia contain NaN or infinity"):
        aurocs(labels, scores, FINDINGS)
    with pytest.raises(ValueError, match="column 13 contain NaN or infinity"):
        macro_f1(labels, scores)


@given(st.integers(0, 1000))
def test_unknown_labels_are_left_out(seed: int) -> None:
    """AUROC and F1 of each finding are scikit-learn's on the rows where its label is known."""
    labels, scores = sample(seed, 30)
    known = np.random.default_rng(seed).uniform(size=labels.shape) < 0.7
    masked = np.where(known, labels, np.nan)
    for column, entry in enumerate(aurocs(masked, scores, FINDINGS)):
        label, score = labels[known[:, column], column], scores[known[:, column], column]
        assert (entry.positives, entry.negatives) == (label.sum(), (1 - label).sum())
        assert entry.auroc == (pytest.approx(roc_auc_score(label, score)) if 0 < label.mean() < 1 else None)
    columns = zip(labels.T, scores.T, known.T, strict=True)
    expected = np.mean([f1_score(label[k], score[k] > 0.5, zero_division=0) for label, score, k in columns])
    assert macro_f1(masked, scores) == pytest.approx(expected)


def test_any_label_is_unknown_only_without_a_positive() -> None:
    """A positive decides; without one, an unknown label leaves the image open."""
    labels = np.array([[1, 0], [0, 0], [np.nan, 0], [np.nan, 1]], dtype=np.float32)
    np.testing.assert_array_equal(any_label(labels), [1, 0, np.nan, 1])


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ((40, 14), (39, 14)),
        ((39, 14), (40, 14)),
        ((40, 15), (40, 14)),
        ((14,), (14,)),
        ((40, 14, 1), (40, 14, 1)),
    ],
    ids=str,
)
def test_shapes_must_agree(labels: tuple[int, ...], scores: tuple[int, ...]) -> None:
    """Scores of another number of rows or findings, and anything that is not a matrix, are refused with both shapes."""
    with pytest.raises(ValueError, match=re.escape(f"labels {labels} and scores {scores}; expected both (N, 14)")):
        aurocs(np.zeros(labels), np.zeros(scores), FINDINGS)
    with pytest.raises(ValueError, match=re.escape(f"labels {labels} and scores {scores}; expected both (N, ")):
        macro_f1(np.zeros(labels), np.zeros(scores))


@given(st.integers(0, 1000))
def test_auroc_and_ap_are_scikit_learns_or_none(seed: int) -> None:
    """Ties and all, of lists as of arrays; None for both where a class is absent, with no warning."""
    labels, scores = (part[:, 0] for part in sample(seed, 4))
    auroc, average_precision = auroc_and_ap(labels.tolist(), scores.tolist())
    assert (auroc, average_precision) == auroc_and_ap(labels, scores)
    if 0 < labels.sum() < 4:
        assert auroc == roc_auc_score(labels, scores)
        assert average_precision == average_precision_score(labels, scores)
    else:
        assert (auroc, average_precision) == (None, None)


def test_averages_are_what_multi_label_papers_report() -> None:
    """Worked example: micro over all predictions, macro and weighted over findings, samples over images; 0 / 0 is 0."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    predicted_positive = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    found = averaged_metrics(labels, predicted_positive)
    for average, precision, recall, f1 in (
        ("micro", 2 / 3, 2 / 4, 4 / 7),
        ("macro", (1 + 0 + 0) / 3, (2 / 3) / 3, (4 / 5) / 3),
        ("weighted", 3 / 4, (3 * 2 / 3) / 4, (3 * 4 / 5) / 4),
        ("samples", (1 + 1 / 2) / 4, (1 / 2 + 1) / 4, (2 / 3 + 2 / 3) / 4),
    ):
        assert found[average] == pytest.approx({"precision": precision, "recall": recall, "f1": f1}, abs=1e-12)


@pytest.mark.parametrize("images", [1, 6])
def test_one_finding_alone_is_averaged_like_one_of_many(images: int) -> None:
    """Micro, macro and weighted are the finding's own precision and recall, not a mean over yes and no."""
    labels, predicted_positive = (
        np.array([[1], [1], [0], [0], [1], [0]])[:images],
        np.array([[1], [0], [1], [0], [1], [1]])[:images],
    )
    hits, predictions, positives = (
        int((labels & predicted_positive).sum()),
        int(predicted_positive.sum()),
        int(labels.sum()),
    )
    found = averaged_metrics(labels, predicted_positive)
    for average in ("micro", "macro", "weighted"):
        assert found[average]["precision"] == hits / predictions
        assert found[average]["recall"] == hits / positives
    assert found["samples"]["recall"] == pytest.approx(hits / images)


def test_a_second_finding_without_positives_changes_only_macro() -> None:
    """Micro and samples ignore a finding with neither positives nor positive predictions; it halves macro."""
    random = np.random.default_rng(0)
    labels, predicted_positive = random.integers(0, 2, (2, 40, 1))
    alone = averaged_metrics(labels, predicted_positive)
    beside = averaged_metrics(np.pad(labels, ((0, 0), (0, 1))), np.pad(predicted_positive, ((0, 0), (0, 1))))
    assert alone["micro"] == beside["micro"]
    assert alone["samples"] == beside["samples"]
    assert beside["macro"]["f1"] == pytest.approx(alone["macro"]["f1"] / 2)
