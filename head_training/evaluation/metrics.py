"""Metrics of a sample of images: one row per value, with its counts and its bootstrap interval over patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss

from cxrfeat.head.thresholds import confusion, rates
from cxrfeat.labels.findings import ANY_FINDING
from head_training.evaluation.bootstrap import PatientBootstrap, percentile_interval
from head_training.evaluation.curves import BINS, Reliability, reliability, to_bins
from head_training.evaluation.ranking import auroc_and_ap, averaged_metrics

Floats = NDArray[np.float64]

# Notes of null values.
NO_CLASS = "a class is absent"
NO_THRESHOLD = "no threshold: val is missing or lacks a class"
NO_DENOMINATOR = "the denominator is 0"


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric value; :mod:`head_training.evaluation.measurement` documents the fields."""

    split: str
    group: str
    model: str
    scale: str | None
    scope: str
    metric: str
    value: float | None
    images: int
    patients: int
    positives: int
    point: str | None = None
    threshold: float | None = None
    low: float | None = None
    high: float | None = None
    resamples: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class SampleKey:
    """Fields shared by all metric rows of a sample."""

    split: str
    group: str = "all"
    model: str = "predictions"
    scale: str | None = None


@dataclass(frozen=True)
class Sample:
    """N images of one split, with their labels and the predictions of one model.

    Attributes:
        key: fields shared by all metric rows of the sample.
        findings: F names.
        labels: (N, F) bool, False where unknown.
        probabilities: (N, F) float64.
        bootstrap: R resamples of the P patients of the N images.
        known: (N, F) bool, False where the label is unknown: such cells are left out of every metric. None: all known.
    """

    key: SampleKey
    findings: tuple[str, ...]
    labels: NDArray[np.bool_]
    probabilities: Floats
    bootstrap: PatientBootstrap
    known: NDArray[np.bool_] | None = None

    def known_cells(self) -> NDArray[np.bool_]:
        """Return (N, F): True where the label is known."""
        return np.ones_like(self.labels) if self.known is None else self.known

    def known_columns(self) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_], Floats]]:
        """Yield name, (N,) mask of the K known rows, (K,) labels and (K,) probabilities of each finding."""
        columns = (self.findings, self.known_cells().T, self.labels.T, self.probabilities.T)
        for finding, known, labels, probabilities in zip(*columns, strict=True):
            yield finding, known, labels[known], probabilities[known]

    def row(
        self,
        scope: str,
        metric: str,
        value: float | None,
        replicates: Floats | None = None,
        *,
        note: str | None = None,
        point: str | None = None,
        threshold: float | None = None,
    ) -> MetricRow:
        """Return the metric row of a finding, or of all findings if the scope is an average.

        The row has an interval only if the value is not None and its (R,) replicates are given.
        """
        column = self.findings.index(scope) if scope in self.findings else slice(None)
        labels, known = self.labels[:, column], self.known_cells()[:, column]  # (N,) or (N, F)
        rows: NDArray[np.bool_] = np.logical_or.reduce(np.atleast_2d(known.T), axis=0)  # (N,)
        row = MetricRow(
            **asdict(self.key),
            scope=scope,
            metric=metric,
            value=value,
            images=int(rows.sum()),
            patients=len(self.bootstrap.counts) if rows.all() else self.bootstrap.count_patients(rows),
            positives=int(labels.sum()),
            note=note,
            point=point,
            threshold=threshold,
        )
        if value is None or replicates is None:
            return row
        interval = percentile_interval(replicates)
        return replace(row, low=interval.low, high=interval.high, resamples=interval.resamples)


def ranking_metrics(sample: Sample) -> Iterator[MetricRow]:
    """Yield AUROC and average precision of each finding, their macro average and their micro average."""
    metrics = ("auroc", "average_precision")
    defined: dict[str, list[tuple[float, Floats]]] = {metric: [] for metric in metrics}
    for finding, known, labels, scores in sample.known_columns():
        replicates_of_both = sample.bootstrap.rank(labels, scores, known)
        results = zip(metrics, auroc_and_ap(labels, scores), replicates_of_both, strict=True)
        for metric, value, replicates in results:  # replicates: (R,)
            yield sample.row(finding, metric, value, replicates, note=NO_CLASS if value is None else None)
            if value is not None:
                defined[metric].append((value, replicates))
    if sample.findings == (ANY_FINDING,):
        return
    yield from (_macro_row(sample, metric, pairs) for metric, pairs in defined.items())
    cells = sample.known_cells()
    values = auroc_and_ap(sample.labels[cells], sample.probabilities[cells])
    micro_replicates = sample.bootstrap.rank_micro(sample.labels, sample.probabilities, cells)
    for metric, value, replicates in zip(metrics, values, micro_replicates, strict=True):
        yield sample.row("micro", metric, value, replicates, note=NO_CLASS if value is None else None)


def threshold_metrics(sample: Sample, point: str, thresholds: Mapping[str, float | None]) -> Iterator[MetricRow]:
    """Yield counts and rates of each finding at its threshold, and the averages of multi-label papers.

    A finding without a threshold has rows with null values; the averages cover the other findings.
    """
    columns = [column for column, finding in enumerate(sample.findings) if thresholds[finding] is not None]
    # From here on, F counts only the findings with a threshold.
    applied = np.array([thresholds[sample.findings[column]] for column in columns], dtype=np.float64)  # (F,)
    known, labels = sample.known_cells()[:, columns], sample.labels[:, columns]  # (N, F)
    # averaged_metrics takes unknown cells as true negatives, which do not affect precision, recall or F1.
    predicted_positive = (sample.probabilities[:, columns] >= applied) & known  # (N, F)
    tp, fp = labels & predicted_positive, ~labels & predicted_positive  # (N, F)
    tn, fn = known & ~labels & ~predicted_positive, labels & ~predicted_positive  # (N, F)
    cells = np.stack([tp, fp, tn, fn], axis=2)  # (N, F, 4)
    sums = sample.bootstrap.sums(cells.reshape(len(labels), 4 * len(columns)))  # (R, 4 F)
    counts = sums.reshape(len(sums), len(columns), 4)  # (R, F, 4)
    counts_of_column = dict(zip(columns, counts.swapaxes(0, 1), strict=True))  # (R, 4) each
    for column, finding in enumerate(sample.findings):
        yield from _finding_at_threshold(sample, finding, point, thresholds[finding], counts_of_column.get(column))
    if sample.findings == (ANY_FINDING,) or not columns:
        return
    note = f"over {len(columns)} of {len(sample.findings)} findings"
    replicates = _averaged_replicates(sample, cells, counts)
    for scope, values in averaged_metrics(labels, predicted_positive).items():
        for metric, value in values.items():
            yield sample.row(scope, metric, value, replicates[scope][metric], point=point, note=note)


def _finding_at_threshold(
    sample: Sample, finding: str, point: str, threshold: float | None, counts: Floats | None
) -> Iterator[MetricRow]:
    """Yield the rows of one finding; ``counts`` are the (R, 4) tp, fp, tn, fn of each resample."""
    metrics = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")
    if threshold is None or counts is None:
        yield from (sample.row(finding, metric, None, point=point, note=NO_THRESHOLD) for metric in metrics)
        return
    column = sample.findings.index(finding)
    known = sample.known_cells()[:, column]  # (N,)
    matrix = confusion(sample.labels[known, column], sample.probabilities[known, column], threshold)
    replicates = rates(*counts.T)  # (R,) by metric
    for metric in metrics:
        value = getattr(matrix, metric)
        note = NO_DENOMINATOR if value is None else None
        yield sample.row(finding, metric, value, replicates[metric], point=point, threshold=threshold, note=note)
    for metric in ("tp", "fp", "tn", "fn"):
        yield sample.row(finding, metric, getattr(matrix, metric), point=point, threshold=threshold)


def _averaged_replicates(sample: Sample, cells: NDArray[np.bool_], counts: Floats) -> dict[str, dict[str, Floats]]:
    """Return the (R,) replicates of :func:`head_training.evaluation.ranking.averaged_metrics`.

    Args:
        sample: the N images.
        cells: (N, F, 4) bool, True in the cell (tp, fp, tn, fn) of each image and finding.
        counts: (R, F, 4) sums of the cells over the images of each resample.
    """
    names = {"precision": "ppv", "recall": "sensitivity", "f1": "f1"}
    by_finding = rates(*np.moveaxis(counts, 2, 0))  # (R, F) by rate
    by_image = rates(*cells.sum(axis=1).T)  # (N,) by rate
    micro = rates(*counts.sum(axis=1).T)  # (R,) by rate
    positives = counts[:, :, 0] + counts[:, :, 3]  # (R, F): tp + fn
    ones = np.ones(len(cells))
    # (R, 4): number of images, then the sums of precision, recall and F1 over the images
    image_sums = sample.bootstrap.sums(
        np.column_stack([ones, *(np.nan_to_num(by_image[rate]) for rate in names.values())])
    )
    return {
        "micro": {name: np.nan_to_num(micro[rate]) for name, rate in names.items()},
        "macro": {name: np.nan_to_num(by_finding[rate]).mean(axis=1) for name, rate in names.items()},
        "weighted": {
            name: _divide((np.nan_to_num(by_finding[rate]) * positives).sum(axis=1), positives.sum(axis=1))
            for name, rate in names.items()
        },
        "samples": {name: image_sums[:, column] / image_sums[:, 0] for column, name in enumerate(names, start=1)},
    }


def calibration_metrics(sample: Sample) -> Iterator[MetricRow]:
    """Yield Brier score and ECE of each finding and their macro averages; the interval of an ECE is biased upwards.

    Noise widens the gap of every bin more in a resample than in the sample, so the interval of a well calibrated
    finding lies above its value.
    """
    images = sample.bootstrap.sums(sample.known_cells())  # (R, F)
    defined: dict[str, list[tuple[float, Floats]]] = {"brier": [], "ece": []}
    for column, (finding, known, labels, probabilities) in enumerate(sample.known_columns()):
        if not len(labels):
            yield from (sample.row(finding, metric, None, note=NO_CLASS) for metric in defined)
            continue
        # The ECE is Σ over bins of |Σ over their images of (label - probability)| / N, so sums over images suffice.
        columns = np.zeros((len(known), BINS + 1))  # (N, 16): label - probability in the image's bin; squared error
        columns[np.flatnonzero(known), to_bins(probabilities)] = labels - probabilities
        columns[known, BINS] = (labels - probabilities) ** 2
        with np.errstate(invalid="ignore"):  # 0 / 0 in a resample without a known label
            means = sample.bootstrap.sums(columns) / images[:, [column]]  # (R, 16)
        defined["brier"].append((brier_score_loss(labels, probabilities, pos_label=True), means[:, BINS]))
        defined["ece"].append((reliability(labels, probabilities).ece, np.abs(means[:, :BINS]).sum(axis=1)))
        yield from (sample.row(finding, metric, *pairs[-1]) for metric, pairs in defined.items())
    if sample.findings != (ANY_FINDING,):
        yield from (_macro_row(sample, metric, pairs) for metric, pairs in defined.items())


def reliabilities(sample: Sample) -> dict[str, Reliability]:
    """Return the reliability of each finding with a known label."""
    return {
        finding: reliability(labels, probabilities)
        for finding, _, labels, probabilities in sample.known_columns()
        if len(labels)
    }


def _macro_row(sample: Sample, metric: str, defined: Sequence[tuple[float, Floats]]) -> MetricRow:
    """Return the mean over (value, (R,) replicates) pairs; a resample that lacks one of them does not define it."""
    note = f"mean over {len(defined)} of {len(sample.findings)} findings"
    if not defined:
        return sample.row("macro", metric, None, note=note)
    values, replicates = zip(*defined, strict=True)
    return sample.row("macro", metric, float(np.mean(values)), np.mean(replicates, axis=0), note=note)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """Return the quotients, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
