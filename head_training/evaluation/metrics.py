"""The numbers of an evaluation: what a group of images says of some findings, each with its interval over patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss

from cxrfeat.head.thresholds import confusion, rates
from head_training.evaluation.bootstrap import PatientBootstrap, interval
from head_training.evaluation.curves import BINS, Reliability, reliability, to_bins
from head_training.evaluation.ranking import averaged, rank_quality

Floats = NDArray[np.float64]

NO_CLASS = "a class is absent"
NO_THRESHOLD = "no threshold: val is not there or lacks a class"
NO_DENOMINATOR = "nothing to divide by"


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One number; :mod:`head_training.evaluation.measurement` says what the words mean."""

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
    """What all numbers of a sample have in common."""

    split: str
    group: str = "all"
    model: str = "predictions"
    scale: str | None = None


@dataclass(frozen=True)
class Sample:
    """Images of one split, and what a model says of them.

    Attributes:
        name: of the sample.
        findings: F names.
        labels: (N, F) bool.
        probabilities: (N, F) float64.
        resamples: of the N images' patients.
    """

    name: SampleKey
    findings: tuple[str, ...]
    labels: NDArray[np.bool_]
    probabilities: Floats
    resamples: PatientBootstrap

    def number(
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
        """Return a number of one finding, or of all where the scope is none of them; no value, no interval."""
        labels = self.labels[:, self.findings.index(scope)] if scope in self.findings else self.labels
        number = MetricRow(
            **asdict(self.name),
            scope=scope,
            metric=metric,
            value=value,
            images=len(self.labels),
            patients=len(self.resamples.counts),
            positives=int(labels.sum()),
            note=note,
            point=point,
            threshold=threshold,
        )
        if value is None or replicates is None:
            return number
        found = interval(replicates)
        return replace(number, low=found.low, high=found.high, resamples=found.resamples)


def ranking(sample: Sample) -> Iterator[MetricRow]:
    """Yield AUROC and average precision of each finding, their means, and of all findings in one ranking."""
    metrics = ("auroc", "average_precision")
    defined: dict[str, list[tuple[float, Floats]]] = {metric: [] for metric in metrics}
    for finding, labels, scores in zip(sample.findings, sample.labels.T, sample.probabilities.T, strict=True):
        found = zip(metrics, rank_quality(labels, scores), sample.resamples.rank(labels, scores), strict=True)
        for metric, value, replicates in found:
            yield sample.number(finding, metric, value, replicates, note=NO_CLASS if value is None else None)
            if value is not None:
                defined[metric].append((value, replicates))
    if len(sample.findings) == 1:
        return
    yield from (_macro(sample, metric, pairs) for metric, pairs in defined.items())
    values = rank_quality(sample.labels.ravel(), sample.probabilities.ravel())
    micro = sample.resamples.rank_micro(sample.labels, sample.probabilities)
    for metric, value, replicates in zip(metrics, values, micro, strict=True):
        yield sample.number("micro", metric, value, replicates, note=NO_CLASS if value is None else None)


def at_point(sample: Sample, point: str, thresholds: Mapping[str, float | None]) -> Iterator[MetricRow]:
    """Yield counts and rates of each finding at its threshold, and the averages of multi-label papers.

    Findings without a threshold have rows without a value, and the averages are over the others.
    """
    columns = [column for column, finding in enumerate(sample.findings) if thresholds[finding] is not None]
    limits = np.array([thresholds[sample.findings[column]] for column in columns], dtype=np.float64)
    labels, called = sample.labels[:, columns], sample.probabilities[:, columns] >= limits
    cells = np.stack([labels & called, ~labels & called, ~labels & ~called, labels & ~called], axis=2)  # tp fp tn fn
    sums = sample.resamples.sums(cells.reshape(len(labels), 4 * len(columns)))
    counts = sums.reshape(len(sums), len(columns), 4)
    counts_of = dict(zip(columns, counts.swapaxes(0, 1), strict=True))
    for column, finding in enumerate(sample.findings):
        yield from _finding_at_point(sample, finding, point, thresholds[finding], counts_of.get(column))
    if len(sample.findings) == 1 or not columns:
        return
    note = f"over {len(columns)} of {len(sample.findings)} findings"
    replicates = _averaged_replicates(sample, cells, counts)
    for scope, values in averaged(labels, called).items():
        for metric, value in values.items():
            yield sample.number(scope, metric, value, replicates[scope][metric], point=point, note=note)


def _finding_at_point(
    sample: Sample, finding: str, point: str, threshold: float | None, counts: Floats | None
) -> Iterator[MetricRow]:
    metrics = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")
    if threshold is None or counts is None:
        yield from (sample.number(finding, metric, None, point=point, note=NO_THRESHOLD) for metric in metrics)
        return
    column = sample.findings.index(finding)
    found = confusion(sample.labels[:, column], sample.probabilities[:, column], threshold)
    replicates = rates(*counts.T)
    for metric in metrics:
        value = getattr(found, metric)
        note = NO_DENOMINATOR if value is None else None
        yield sample.number(finding, metric, value, replicates[metric], point=point, threshold=threshold, note=note)
    for metric in ("tp", "fp", "tn", "fn"):
        yield sample.number(finding, metric, getattr(found, metric), point=point, threshold=threshold)


def _averaged_replicates(sample: Sample, cells: NDArray[np.bool_], counts: Floats) -> dict[str, dict[str, Floats]]:
    """Return what :func:`head_training.evaluation.ranking.averaged` gives in each resample.

    Args:
        sample: the images.
        cells: (N, F, 4) whether each image is tp, fp, tn, fn of each finding.
        counts: (R, F, 4) their sums.
    """
    names = {"precision": "ppv", "recall": "sensitivity", "f1": "f1"}
    by_finding = rates(*np.moveaxis(counts, 2, 0))
    by_image = rates(*cells.sum(axis=1).T)
    micro = rates(*counts.sum(axis=1).T)
    positives = counts[:, :, 0] + counts[:, :, 3]
    ones = np.ones(len(cells))
    images = sample.resamples.sums(np.column_stack([ones, *(np.nan_to_num(by_image[rate]) for rate in names.values())]))
    return {
        "micro": {name: np.nan_to_num(micro[rate]) for name, rate in names.items()},
        "macro": {name: np.nan_to_num(by_finding[rate]).mean(axis=1) for name, rate in names.items()},
        "weighted": {
            name: _ratio((np.nan_to_num(by_finding[rate]) * positives).sum(axis=1), positives.sum(axis=1))
            for name, rate in names.items()
        },
        "samples": {name: images[:, number] / images[:, 0] for number, name in enumerate(names, start=1)},
    }


def calibration(sample: Sample) -> Iterator[MetricRow]:
    """Yield the Brier score and the ECE of each finding and their means; an ECE's interval is biased upwards.

    Noise makes every bin's gap larger in a resample than in the sample, so the interval of a well calibrated finding
    lies above its value.
    """
    images = sample.resamples.sums(np.ones((len(sample.labels), 1)))
    defined: dict[str, list[tuple[float, Floats]]] = {"brier": [], "ece": []}
    for finding, labels, probabilities in zip(sample.findings, sample.labels.T, sample.probabilities.T, strict=True):
        columns = np.zeros((len(labels), BINS + 1))  # gap of each bin, and squared error
        columns[np.arange(len(labels)), to_bins(probabilities)] = labels - probabilities
        columns[:, BINS] = (labels - probabilities) ** 2
        means = sample.resamples.sums(columns) / images
        defined["brier"].append((brier_score_loss(labels, probabilities, pos_label=True), means[:, BINS]))
        defined["ece"].append((reliability(labels, probabilities).ece, np.abs(means[:, :BINS]).sum(axis=1)))
        yield from (sample.number(finding, metric, *pairs[-1]) for metric, pairs in defined.items())
    if len(sample.findings) > 1:
        yield from (_macro(sample, metric, pairs) for metric, pairs in defined.items())


def reliabilities(sample: Sample) -> dict[str, Reliability]:
    """Return the reliability of each finding."""
    columns = zip(sample.findings, sample.labels.T, sample.probabilities.T, strict=True)
    return {finding: reliability(labels, probabilities) for finding, labels, probabilities in columns}


def _macro(sample: Sample, metric: str, defined: Sequence[tuple[float, Floats]]) -> MetricRow:
    """Return the mean over the findings for which a metric is defined; a resample that lacks one of them has no mean."""
    note = f"mean over {len(defined)} of {len(sample.findings)} findings"
    if not defined:
        return sample.number("macro", metric, None, note=note)
    values, replicates = zip(*defined, strict=True)
    return sample.number("macro", metric, float(np.mean(values)), np.mean(replicates, axis=0), note=note)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
