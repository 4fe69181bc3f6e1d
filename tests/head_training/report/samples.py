"""A metrics.json in the structure that the evaluation documents, from made-up scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cxrfeat.findings import FINDINGS, NO_FINDING

POINTS = ("youden", "f1", "sensitivity_0.90", "fixed_0.20")
RATES = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")
BINS = 15

Floats = NDArray[np.float64]


def scores_of(labels: Floats, *, distance: float = 1.3, seed: int = 0) -> Floats:
    """Return (N, 14) scores in (0, 1) that rank positives ``distance`` standard deviations higher."""
    random = np.random.default_rng(seed)
    distances = distance * np.linspace(0.4, 1.4, labels.shape[1])
    return 1 / (1 + np.exp(-(random.normal(size=labels.shape) + distances * labels - 1)))


def labels_of(count: int = 400, *, seed: int = 0) -> Floats:
    """Return (N, 14) labels; the later a finding in the list, the rarer."""
    random = np.random.default_rng(seed)
    return (random.uniform(size=(count, len(FINDINGS))) < np.linspace(0.3, 0.04, len(FINDINGS))).astype(float)


def metrics_json(labels: Floats, scores: Floats, *, protocol: str = "official list") -> dict[str, Any]:
    """Return the content of a metrics.json whose every class-dependent number is null where a class is absent."""
    defined = [0 < column.sum() < len(labels) for column in labels.T]
    numbers: list[dict[str, Any]] = []

    def add(metric: str, scope: str, value: float | None, **key: Any) -> None:
        row = {"split": "test", "group": "all", "model": "predictions", "point": None, "scale": "probability", **key}
        low, high = (None, None) if value is None else (max(value - 0.03, 0), min(value + 0.03, 1))
        positives = int(labels[:, FINDINGS.index(scope)].sum()) if scope in FINDINGS else int(labels.sum())
        row |= {"scope": scope, "metric": metric, "value": value, "low": low, "high": high, "resamples": 200}
        numbers.append({**row, "threshold": 0.3 if row["point"] else None, "images": len(labels), "patients": len(labels),
                        "positives": positives, "note": None})  # fmt: skip

    quality: dict[str, list[float | None]] = {
        "auroc": [
            float(roc_auc_score(t, s)) if ok else None for t, s, ok in zip(labels.T, scores.T, defined, strict=True)
        ],
        "average_precision": [
            float(average_precision_score(t, s)) if ok else None
            for t, s, ok in zip(labels.T, scores.T, defined, strict=True)
        ],
    }
    for metric, values in quality.items():
        for finding, value in zip(FINDINGS, values, strict=True):
            add(metric, finding, value)
        known = [value for value in values if value is not None]
        for average in ("macro", "micro"):
            add(metric, average, float(np.mean(known)) if known else None)
    mean = next(row["value"] for row in numbers if row["scope"] == "macro")
    for place, model in enumerate(("untrained", "view", "age+sex", "view+age+sex")):
        for finding, value in zip((*FINDINGS, "macro"), (*quality["auroc"], mean), strict=True):
            worse = None if value is None else 0.5 + (value - 0.5) * 0.1 * place
            add("auroc", finding, worse, model=model, scale=None)
    for place, group in enumerate(("sex=F", "sex=M", "age=0-17", "age=18-39", "view=PA", "view=AP")):
        for finding, value in zip((*FINDINGS, "macro"), (*quality["auroc"], mean), strict=True):
            add("auroc", finding, None if value is None else value - 0.02 * place, group=group)
    for point in POINTS:
        for finding, ok in zip(FINDINGS, defined, strict=True):
            for place, rate in enumerate(RATES):
                add(rate, finding, 0.5 + place / 20 if ok else None, point=point)
            for name in ("tp", "fp", "tn", "fn"):
                add(name, finding, float(len(labels) // 4), point=point)
        for average in ("macro", "micro", "weighted", "samples"):
            for name in ("precision", "recall", "f1"):
                add(name, average, 0.4, point=point)
    some = labels.any(axis=1)
    add("auroc", "any finding", 0.7 if 0 < some.sum() < len(labels) else None)
    for place, point in enumerate(("youden", "sensitivity_0.90", "sensitivity_0.95", "sensitivity_0.99")):
        for rate in (*RATES, "tp", "fp", "tn", "fn"):
            add(rate, "any finding", 0.5 - place / 10, point=point)
    for scale, error in (("score", 0.2), ("probability", 0.01)):
        for finding in FINDINGS:
            add("ece", finding, error, scale=scale)
            add("brier", finding, error / 2, scale=scale)
    counts = {NO_FINDING: int((~some).sum())} | dict(zip(FINDINGS, map(int, labels.sum(axis=0)), strict=True))
    return {
        "format": 1,
        "notice": "Research software, not a medical device.",
        "predictions": {"findings": list(FINDINGS), "scales": ["score", "probability"], "scale": "probability"},
        "labels": {"file": "labels.csv", "sha256": "0123456789abcdef" * 4, "images": len(labels), "counts": counts},
        "protocol": {"name": protocol, "why": "every test image is in the test list", "patients_in_both": 0},
        "settings": {"resamples": 200, "confidence": 0.95, "points": list(POINTS), "bins": BINS},
        "splits": {"test": {"images": len(labels), "patients": len(labels), "without_prediction": 0}},
        "thresholds": {point: dict.fromkeys(FINDINGS, 0.3) for point in POINTS},
        "numbers": numbers,
        "curves": {"test": _curves(labels, scores, defined)},
        "reliability": {"test": {"score": _bins(labels, scores), "probability": _bins(labels, scores / 2)}},
        "baselines": {"train_images": 1000, "train_patients": 900, "note": None},
        "literature": [
            {"name": "Wang", "year": 2017, "protocol": "official", "source": "Wang et al., CVPR 2017", "mean": 0.745,
             "findings": dict.fromkeys(FINDINGS, 0.745), "verified": False},
            {"name": "CheXNet", "year": 2017, "protocol": "random", "source": "Rajpurkar et al. 2017", "mean": 0.841,
             "findings": dict.fromkeys(FINDINGS, 0.841), "verified": True},
        ],
    }  # fmt: skip


def _curves(labels: Floats, scores: Floats, defined: list[bool]) -> dict[str, Any]:
    curves = {}
    for finding, truth, values, ok in zip(FINDINGS, labels.T, scores.T, defined, strict=True):
        if ok:
            fpr, tpr, _ = roc_curve(truth, values)
            precision, recall, _ = precision_recall_curve(truth, values)
            curves[finding] = {
                "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()},
                "pr": {"recall": recall.tolist(), "precision": precision.tolist()},
            }
    some = labels.any(axis=1)
    if 0 < some.sum() < len(labels):
        fpr, tpr, _ = roc_curve(some, scores.max(axis=1))
        curves["any finding"] = {"roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()}}
    return curves


def _bins(labels: Floats, scores: Floats) -> dict[str, dict[str, list[float | None]]]:
    found: dict[str, dict[str, list[float | None]]] = {}
    for finding, truth, values in zip(FINDINGS, labels.T, scores.T, strict=True):
        inside = [np.minimum((values * BINS).astype(int), BINS - 1) == place for place in range(BINS)]
        found[finding] = {
            "mean": [float(values[rows].mean()) if rows.any() else None for rows in inside],
            "observed": [float(truth[rows].mean()) if rows.any() else None for rows in inside],
            "images": [float(rows.sum()) for rows in inside],
        }
    return found
