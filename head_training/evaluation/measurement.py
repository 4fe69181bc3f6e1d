"""Evaluation of predictions against ground truth, written to ``EVAL/metrics.json`` and ``EVAL/metrics.parquet``.

``metrics.parquet`` has one row per metric value, with the schema :data:`cxrfeat.io.schema.METRICS`. ``metrics.json``
holds the same rows under ``numbers``, and everything that is not a single value. Its structure::

    format         1
    notice         "Research software, not a medical device."
    predictions    {file, head: fingerprint of the head, null for predictions that do not come from a run, sha256, rows,
                    scales: ["score"] | ["probability", "score"] | [prefix], scale: the evaluated one,
                    findings: [...], missing_findings: [...], hard_labels: findings with values 0 and 1 alone,
                    left_out: rows that are neither val nor test}
    labels         {file, sha256: of the file, digest: of the evaluated (image, findings) pairs, ages_unusable,
                    set: the label set, other_names: {name that is not in the label set: number of images},
                    counts: {"images": n, "patients": n, "No Finding": n, finding: n, ...} of all images in the file}
    protocol       {name: "official list" | "patient hash" | "unknown", why: a sentence, patients_in_both: number of
                    patients in both val and test}
    settings       {resamples, seed, confidence: 0.95, unit: "patient", bins: 15, points: [...], triage_points: [...]}
    splits         {split: {images, patients, without_prediction, counts: {"No Finding": n, finding: n, ...}}}
                    split: "val" and "test", or "test" alone
    thresholds     {point: {finding or "any_finding": threshold or null}}; chosen on val, except fixed_0.20
    numbers        [{split, group, model, scope, point, scale, metric, value, low, high, resamples, threshold, images,
                     patients, positives, note}, ...]
    curves         {split: {scope: {"roc": {"fpr": [...], "tpr": [...]}, "pr": {"recall": [...], "precision": [...]}}}}
                    scope: a finding, "micro" or "any_finding"; a finding that lacks a class has no entry
    reliability    {split: {scale: {finding: {"mean": [...], "observed": [...], "images": [...]}}}}
                    one entry per bin of width 1/15; mean probability and share of positives are null in an empty bin
    triage         {note}: null, or the reason for missing triage
    baselines      {train_images, train_patients, note}: size of their training set; note: null, or the reason for
                    missing baselines
    literature     [{name, year, protocol, source, mean, findings: {...}, verified: true if the values of the findings
                     were checked against the source}, ...]

Columns of a row in ``numbers``:

=========== ========================================================================================================
split       ``val``, ``test``
group       ``all``, or a subgroup: ``sex=F``, ``sex=M``, ``age=0-17`` …, ``view=PA`` …; ``sex=unknown`` if missing
model       ``predictions``, or a baseline: ``view``, ``age+sex``, ``view+age+sex``, ``untrained``
scope       a finding, or ``any_finding`` (triage), or an average: ``macro`` (mean over the findings with a defined
            value), ``micro`` (all findings pooled), ``weighted`` (mean weighted by positives), ``samples`` (mean over
            images)
point       operating point: ``youden``, ``f1``, ``sensitivity_0.90``, ``fixed_0.20``; for triage ``youden`` and
            ``sensitivity_0.90``, ``_0.95``, ``_0.99``; null for a metric without threshold
scale       column prefix of the evaluated values: ``score``, ``probability``, …; null for baselines
metric      ``auroc``, ``average_precision``; ``brier``, ``ece``; at a point ``sensitivity``, ``specificity``, ``ppv``,
            ``npv``, ``f1``, ``accuracy``, ``tp``, ``fp``, ``tn``, ``fn``; averages: ``precision``, ``recall``, ``f1``
value       null if undefined; ``note`` then gives the reason
low, high   95 % percentile interval over patients; null for counts, for ``untrained``, and if fewer than 95 % of the
            resamples define the metric
resamples   number of resamples that define the metric
threshold   threshold applied to the finding; null for an average
images, patients, positives   counts behind the value; for averages positives are summed over findings
note        reason for a null value, or the findings that an average covers
=========== ========================================================================================================

Triage separates images with any finding from those labelled "No Finding". The score of "any_finding" is 1 - Π(1 - p_f),
which assumes independent findings. Its ``specificity`` is the share of studies without a finding that could be left
unread at that point.

Thresholds are chosen on val: metrics at them are unbiased on test and slightly optimistic on val. The same holds for
calibration that was fitted on val.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat import NOTICE
from cxrfeat.head.thresholds import RULES, choose_threshold
from cxrfeat.io import storage
from cxrfeat.io.schema import METRICS, METRICS_FORMAT, Split
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS
from cxrfeat.labels.label_set import LabelSet
from head_training.evaluation.baselines import fit_baselines
from head_training.evaluation.bootstrap import CONFIDENCE
from head_training.evaluation.curves import BINS, precision_recall_points, roc_points
from head_training.evaluation.labelled_predictions import LabelledPredictions
from head_training.evaluation.literature import RESULTS
from head_training.evaluation.metrics import (
    MetricRow,
    Sample,
    calibration_metrics,
    ranking_metrics,
    reliabilities,
    threshold_metrics,
)
from head_training.evaluation.sources import Sources, count_labels
from head_training.evaluation.subgroups import SplitSamples

FIXED = {"fixed_0.20": 0.2}
"""Fixed threshold of multi-label papers, the same for every finding, by operating point."""

TRIAGE_RULES = ("youden", "sensitivity_0.90", "sensitivity_0.95", "sensitivity_0.99")
"""Rules whose thresholds are chosen for triage."""

_DIGITS = 6
"""Decimals of the points of curves, which are only drawn; metric values are not rounded."""

Thresholds = dict[str, dict[str, float | None]]
"""Threshold by operating point and finding."""


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        metrics: content of ``metrics.json``.
    """

    metrics: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write ``metrics.parquet``, then ``metrics.json``, whose existence marks a complete evaluation."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self.metrics["numbers"], METRICS), folder / "metrics.parquet")
        text = json.dumps(self.metrics, allow_nan=False) + "\n"
        storage.write_text(str(folder / "metrics.json"), text)


def evaluate(sources: Sources, *, resamples: int, seed: int) -> Evaluation:
    """Return all metrics of predictions on test, and on val if they include it.

    Args:
        sources: predictions, ground truth and splits.
        resamples: number of resamples of the patients, for the intervals.
        seed: seed of the resamples.

    Raises:
        ValueError: ``resamples`` is below 1.
    """
    samples = {
        split: SplitSamples(split, rows, sources.findings, sources.label_set, resamples=resamples, seed=seed)
        for split, rows in sources.labelled.items()
    }
    has_triage = samples[Split.TEST].triage() is not None
    thresholds = _choose_thresholds(samples.get(Split.VAL), sources.findings, has_triage=has_triage)
    metric_rows = [row for split_samples in samples.values() for row in _evaluate_split(split_samples, thresholds)]
    metric_rows += _evaluate_baselines(samples.values(), sources)
    train = sources.train
    metrics = {
        "format": METRICS_FORMAT,
        "notice": NOTICE,
        **sources.describe(),
        "settings": {
            "resamples": resamples,
            "seed": seed,
            "confidence": CONFIDENCE,
            "unit": "patient",
            "bins": BINS,
            "points": [*RULES, *FIXED],
            "triage_points": list(TRIAGE_RULES),
        },
        "splits": {split.value: _describe_split(rows, sources.label_set) for split, rows in sources.labelled.items()},
        "thresholds": thresholds,
        "numbers": [{name: getattr(row, name) for name in METRICS.names} for row in metric_rows],
        "curves": {split.value: _curves(split_samples) for split, split_samples in samples.items()},
        "reliability": {split.value: _reliability(split_samples) for split, split_samples in samples.items()},
        "triage": {"note": _explain_missing_triage(sources)},
        "baselines": {
            "train_images": len(train),
            "train_patients": len(train["patient_id"].unique()),
            "note": None if len(train) else "no training images: every patient is in val or test",
        },
        "literature": [result.describe() for result in RESULTS] if sources.label_set.labels == FINDINGS else [],
    }
    return Evaluation(metrics)


def _explain_missing_triage(sources: Sources) -> str | None:
    """Return the reason for missing triage; None if triage is evaluated."""
    if sources.label_set.findings_count < 2:
        return "the label set has a single finding, which is the triage"
    count = len(sources.label_set.outputs)
    return None if sources.findings == sources.label_set.outputs else f"not all {count} labels are predicted"


def _choose_thresholds(val: SplitSamples | None, findings: Sequence[str], *, has_triage: bool) -> Thresholds:
    """Return the thresholds chosen on val; without val, only the fixed thresholds have values."""
    triage = val.triage() if val else None
    points: Thresholds = {point: dict.fromkeys(findings, value) for point, value in FIXED.items()}
    for rules, scopes, sample in (
        (RULES, findings, val.sample(val.scale) if val else None),
        (TRIAGE_RULES, [ANY_FINDING] if has_triage else [], triage),
    ):
        for rule in rules:
            chosen = _apply_rule(sample, rule) if sample else dict.fromkeys(scopes)
            points[rule] = points.get(rule, {}) | chosen
    return points


def _apply_rule(sample: Sample, rule: str) -> dict[str, float | None]:
    """Return the threshold that a rule chooses for each finding."""
    return {finding: choose_threshold(labels, scores, rule) for finding, _, labels, scores in sample.known_columns()}


def _evaluate_split(split_samples: SplitSamples, thresholds: Thresholds) -> Iterator[MetricRow]:
    """Yield the metrics of the predictions on one split."""
    sample = split_samples.sample(split_samples.scale)
    yield from ranking_metrics(sample)
    for point in (*RULES, *FIXED):
        yield from threshold_metrics(sample, point, thresholds[point])
    for scale in split_samples.rows.scales:
        yield from calibration_metrics(split_samples.sample(scale))
    triage = split_samples.triage()
    if triage is not None:
        yield from ranking_metrics(triage)
        for point in TRIAGE_RULES:
            yield from threshold_metrics(triage, point, thresholds[point])
    for subgroup in split_samples.subgroups():
        yield from ranking_metrics(subgroup)


def _evaluate_baselines(samples: Iterable[SplitSamples], sources: Sources) -> Iterator[MetricRow]:
    """Yield the ranking metrics of the metadata-only baselines and of the head before training."""
    baselines = fit_baselines(sources.train, sources.findings, sources.label_set) if len(sources.train) else {}
    for split_samples in samples:
        for name, baseline in baselines.items():
            yield from ranking_metrics(split_samples.baseline(name, baseline.predict(split_samples.rows.table)))
        recorded = sources.untrained.get(split_samples.split.value)
        if recorded is not None:
            # The run records the AUROCs of the untrained head but not its scores, so they have no interval.
            sample = split_samples.baseline("untrained", np.full(split_samples.rows.labels.shape, np.nan))
            aurocs = {finding: entry["auroc"] for finding, entry in recorded["findings"].items()}
            for scope, value in {**aurocs, "macro": recorded["mean_auroc"]}.items():
                yield sample.row(scope, "auroc", value, note="recorded by the training run")


def _describe_split(rows: LabelledPredictions, label_set: LabelSet) -> dict[str, Any]:
    return {
        "images": len(rows.table),
        "patients": len(rows.table["patient_id"].unique()),
        "without_prediction": rows.without_prediction,
        "counts": count_labels(rows.table, label_set),
    }


def _curves(split_samples: SplitSamples) -> dict[str, Any]:
    """Return the ROC and precision-recall curves of each scope that has both classes."""
    sample, triage = split_samples.sample(split_samples.scale), split_samples.triage()
    # Labels (K,) and scores (K,) by scope, with K known cells.
    columns: dict[str, tuple[NDArray[np.bool_], NDArray[np.float64]]] = {
        finding: (labels, scores) for finding, _, labels, scores in sample.known_columns()
    }
    if len(sample.findings) > 1:
        cells = sample.known_cells()  # (N, F)
        columns["micro"] = (sample.labels[cells], sample.probabilities[cells])
    if triage is not None:
        columns |= {scope: (labels, scores) for scope, _, labels, scores in triage.known_columns()}
    drawable = {scope: pair for scope, pair in columns.items() if pair[0].any() and not pair[0].all()}
    return {scope: {"roc": _roc(*pair), "pr": _precision_recall(*pair)} for scope, pair in drawable.items()}


def _roc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, list[float | None]]:
    fpr, tpr = roc_points(labels, scores)
    return {"fpr": _round(fpr), "tpr": _round(tpr)}


def _precision_recall(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, list[float | None]]:
    recall, precision = precision_recall_points(labels, scores)
    return {"recall": _round(recall), "precision": _round(precision)}


def _reliability(split_samples: SplitSamples) -> dict[str, Any]:
    return {
        scale: {
            finding: {
                "mean": _round(found.mean),
                "observed": _round(found.observed),
                "images": found.images.tolist(),
            }
            for finding, found in reliabilities(split_samples.sample(scale)).items()
        }
        for scale in split_samples.rows.scales
    }


def _round(values: NDArray[np.float64]) -> list[float | None]:
    """Return rounded JSON numbers, null for NaN."""
    return [None if np.isnan(value) else round(float(value), _DIGITS) for value in values]
