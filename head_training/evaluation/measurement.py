"""Predictions and truth → ``EVAL/metrics.json`` and ``EVAL/metrics.parquet``: every number, with its interval and counts.

``metrics.parquet`` has one row a number, in the schema :data:`cxrfeat.io.schema.METRICS`; ``metrics.json`` holds the same rows
under ``numbers`` and, beside them, what is no single number. The whole structure::

    format         1
    notice         "Research software, not a medical device."
    predictions    {file, head: fingerprint, null where no run says it, sha256, rows, scales: ["score"] | ["probability", "score"] | [prefix], scale: the evaluated one,
                    findings: [...], missing_findings: [...], left_out: rows that are neither val nor test}
    labels         {file, sha256: of the file, digest: of the evaluated (image, findings) pairs, ages_unusable,
                    counts: {"images": n, "patients": n, "No Finding": n, finding: n, ...} of all images in the file}
    protocol       {name: "official list" | "patient hash" | "unknown", why: a sentence, patients_in_both: of val and test}
    settings       {resamples, seed, confidence: 0.95, unit: "patient", bins: 15, points: [...], triage_points: [...]}
    splits         {split: {images, patients, without_prediction, counts: {"No Finding": n, finding: n, ...}}}; "val" and
                    "test", or "test" alone
    thresholds     {point: {finding or "any_finding": threshold or null}}; chosen on val, but for fixed_0.20
    numbers        [{split, group, model, scope, point, scale, metric, value, low, high, resamples, threshold, images,
                     patients, positives, note}, ...]
    curves         {split: {scope: {"roc": {"fpr": [...], "tpr": [...]}, "pr": {"recall": [...], "precision": [...]}}}}
                    scope: a finding, "micro", "any_finding"; a finding without both classes has no entry
    reliability    {split: {scale: {finding: {"mean": [...], "observed": [...], "images": [...]}}}}, one entry a bin of
                    width 1/15; mean probability and share of positives are null in an empty bin
    triage         {note}: null, or why there is no triage
    baselines      {train_images, train_patients, note}: what they were fitted on; note: null, or why not
    literature     [{name, year, protocol, source, mean, findings: {...}, verified: whether the values of the
                     findings were checked against the paper}, ...]

A row of ``numbers``:

=========== ========================================================================================================
split       ``val``, ``test``
group       ``all``, or a subgroup: ``sex=F``, ``sex=M``, ``age=0-17`` …, ``view=PA`` …; ``sex=unknown`` where it is missing
model       ``predictions``; or a baseline: ``view``, ``age+sex``, ``view+age+sex``, ``untrained``
scope       a finding; ``macro`` (mean over the findings that are defined), ``micro`` (all in one), ``weighted`` (by
            positives), ``samples`` (mean over images); ``any_finding`` (triage)
point       operating point: ``youden``, ``f1``, ``sensitivity_0.90``, ``fixed_0.20``; for triage ``youden`` and
            ``sensitivity_0.90``, ``_0.95``, ``_0.99``; null where no threshold is involved
scale       column prefix of what was measured: ``score``, ``probability``, …; null for baselines
metric      ``auroc``, ``average_precision``; ``brier``, ``ece``; at a point ``sensitivity``, ``specificity``, ``ppv``,
            ``npv``, ``f1``, ``accuracy``, ``tp``, ``fp``, ``tn``, ``fn``; averages ``precision``, ``recall``, ``f1``
value       null where it is not defined; then ``note`` says why
low, high   95 % percentile interval over patients; null where fewer than 95 % of the resamples define the number
resamples   how many define it
threshold   that was applied
images, patients, positives   that the number is computed from; for ``macro`` and ``micro`` positives are summed
note        why a value is null, or what it is computed over
=========== ========================================================================================================

Triage: the score of "any_finding" is 1 - Π(1 - p_f), as if findings were independent, against "No Finding" as the
negative; its ``specificity`` is the share of studies without a finding that could be set aside unread at that point.
Thresholds come from val: numbers at them are honest on test and a little too good on val. So is calibration, if it was
fitted on val.
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
from head_training.evaluation.baselines import fit_baselines
from head_training.evaluation.bootstrap import CONFIDENCE
from head_training.evaluation.curves import BINS, precision_recall_points, roc_points
from head_training.evaluation.labelled_predictions import LabelledPredictions
from head_training.evaluation.literature import RESULTS
from head_training.evaluation.metrics import MetricRow, Sample, at_point, calibration, ranking, reliabilities
from head_training.evaluation.sources import Sources, count_labels
from head_training.evaluation.subgroups import SplitSubgroups

FIXED = {"fixed_0.20": 0.2}
"""What multi-label papers use whatever the finding."""

TRIAGE_RULES = ("youden", "sensitivity_0.90", "sensitivity_0.95", "sensitivity_0.99")

_DIGITS = 6
"""Of the points of curves, which are to be drawn; numbers are not rounded."""

Thresholds = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: as in ``metrics.json``.
    """

    metrics: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the table, then the JSON: where ``metrics.json`` is, everything is."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self.metrics["numbers"], METRICS), folder / "metrics.parquet")
        text = json.dumps(self.metrics, allow_nan=False) + "\n"
        storage.write_text(str(folder / "metrics.json"), text)


def evaluate(sources: Sources, *, resamples: int, seed: int) -> Evaluation:
    """Measure predictions on val, if they have it, and test.

    Args:
        sources: predictions, truth and splits.
        resamples: of the patients, for the intervals.
        seed: of the resamples.
    """
    views = {
        split: SplitSubgroups(split, rows, sources.findings, resamples=resamples, seed=seed)
        for split, rows in sources.judged.items()
    }
    thresholds = _thresholds(views.get(Split.VAL), sources.findings)
    numbers = [number for view in views.values() for number in _measure(view, thresholds)]
    numbers += _measure_baselines(views.values(), sources)
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
        "splits": {split.value: _describe_split(rows) for split, rows in sources.judged.items()},
        "thresholds": thresholds,
        "numbers": [{name: getattr(number, name) for name in METRICS.names} for number in numbers],
        "curves": {split.value: _curves(view) for split, view in views.items()},
        "reliability": {split.value: _reliability(view) for split, view in views.items()},
        "triage": {"note": None if sources.findings == FINDINGS else "not all 14 findings are predicted"},
        "baselines": {
            "train_images": len(train),
            "train_patients": len(train["patient_id"].unique()),
            "note": None if len(train) else "no image is known that is neither in val nor in test",
        },
        "literature": [result.describe() for result in RESULTS],
    }
    return Evaluation(metrics)


def _thresholds(val: SplitSubgroups | None, findings: Sequence[str]) -> Thresholds:
    """Choose every threshold on val; without val there are only the fixed ones."""
    points: Thresholds = {point: dict.fromkeys(findings, value) for point, value in FIXED.items()}
    for rules, scopes, sample in (
        (RULES, findings, val.sample(val.scale) if val else None),
        (TRIAGE_RULES, [ANY_FINDING] if tuple(findings) == FINDINGS else [], val.triage() if val else None),
    ):
        for rule in rules:
            chosen = _choose(sample, rule) if sample else dict.fromkeys(scopes)
            points[rule] = points.get(rule, {}) | chosen
    return points


def _choose(sample: Sample, rule: str) -> dict[str, float | None]:
    columns = zip(sample.findings, sample.labels.T, sample.probabilities.T, strict=True)
    return {finding: choose_threshold(labels, values, rule) for finding, labels, values in columns}


def _measure(view: SplitSubgroups, thresholds: Thresholds) -> Iterator[MetricRow]:
    """Yield the numbers of the predictions on one split."""
    sample = view.sample(view.scale)
    yield from ranking(sample)
    for point in (*RULES, *FIXED):
        yield from at_point(sample, point, thresholds[point])
    for scale in view.rows.scales:
        yield from calibration(view.sample(scale))
    triage = view.triage()
    if triage is not None:
        yield from ranking(triage)
        for point in TRIAGE_RULES:
            yield from at_point(triage, point, thresholds[point])
    for subgroup in view.subgroups():
        yield from ranking(subgroup)


def _measure_baselines(views: Iterable[SplitSubgroups], sources: Sources) -> Iterator[MetricRow]:
    """Yield how well models rank that know less: metadata alone, and the head before training."""
    baselines = fit_baselines(sources.train, sources.findings) if len(sources.train) else {}
    for view in views:
        for name, baseline in baselines.items():
            yield from ranking(view.other(name, baseline.predict(view.rows.table)))
        recorded = sources.untrained.get(view.split.value)
        if recorded is not None:
            # Only its AUROCs are known: no scores, so no interval.
            sample = view.other("untrained", np.full(view.rows.labels.shape, np.nan))
            aurocs = {finding: entry["auroc"] for finding, entry in recorded["findings"].items()}
            for scope, value in {**aurocs, "macro": recorded["mean_auroc"]}.items():
                yield sample.number(scope, "auroc", value, note="as fit recorded it")


def _describe_split(rows: LabelledPredictions) -> dict[str, Any]:
    return {
        "images": len(rows.table),
        "patients": len(rows.table["patient_id"].unique()),
        "without_prediction": rows.without_prediction,
        "counts": count_labels(rows.table),
    }


def _curves(view: SplitSubgroups) -> dict[str, Any]:
    sample, triage = view.sample(view.scale), view.triage()
    columns = dict(zip(sample.findings, zip(sample.labels.T, sample.probabilities.T, strict=True), strict=True))
    if len(sample.findings) > 1:
        columns["micro"] = (sample.labels.ravel(), sample.probabilities.ravel())
    if triage is not None:
        columns[ANY_FINDING] = (triage.labels[:, 0], triage.probabilities[:, 0])
    both = {scope: pair for scope, pair in columns.items() if pair[0].any() and not pair[0].all()}
    return {scope: {"roc": _roc(*pair), "pr": _precision_recall(*pair)} for scope, pair in both.items()}


def _roc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, list[float | None]]:
    fpr, tpr = roc_points(labels, scores)
    return {"fpr": _rounded(fpr), "tpr": _rounded(tpr)}


def _precision_recall(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, list[float | None]]:
    recall, precision = precision_recall_points(labels, scores)
    return {"recall": _rounded(recall), "precision": _rounded(precision)}


def _reliability(view: SplitSubgroups) -> dict[str, Any]:
    return {
        scale: {
            finding: {
                "mean": _rounded(found.mean),
                "observed": _rounded(found.observed),
                "images": found.images.tolist(),
            }
            for finding, found in reliabilities(view.sample(scale)).items()
        }
        for scale in view.rows.scales
    }


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), _DIGITS) for value in values]
