"""Model card of a head, from the training record in its bundle and an optional evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrfeat import __version__
from cxrfeat.errors import BundleError, ConfigError
from cxrfeat.head.bundle import Bundle
from cxrfeat.io.schema import METRICS_FORMAT, Split
from cxrfeat.web.schemas import AurocInterval, FindingCard, ModelCard

_MACRO = "macro"

_UNKNOWN = AurocInterval(auroc=None, low=None, high=None, positives=None)


@dataclass(frozen=True)
class RecordedEvaluation:
    """Recorded AUROCs of a head.

    Attributes:
        intervals: AUROC per finding; the mean has the key ``macro``.
        source: sentence that names the data behind the AUROCs.
        head: fingerprint of the evaluated head; None if the evaluation does not record it.
    """

    intervals: Mapping[str, AurocInterval]
    source: str
    head: str | None = None


def read_evaluation(path: Path) -> RecordedEvaluation:
    """Read the ``metrics.json`` of ``python -m head_training.evaluate``, given the file or its folder.

    Raises:
        ConfigError: the file is unreadable, has another format version or lacks an entry.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the evaluation {file}: {error}") from error
    found = metrics.get("format") if isinstance(metrics, dict) else None
    if found != METRICS_FORMAT:
        raise ConfigError(f"the evaluation {file} has format {found!r}; expected {METRICS_FORMAT}")
    try:
        head = metrics["predictions"].get("head")
        return RecordedEvaluation(_select_aurocs(metrics), _describe_source(metrics), head)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the evaluation {file} lacks an entry that the model card needs: {error!r}") from error


def make_card(
    bundle: Bundle,
    precision: str,
    operating_point: str,
    evaluation: RecordedEvaluation | None = None,
    *,
    heat_maps: bool = True,
) -> ModelCard:
    """Build the model card; values missing from the bundle's training record are None.

    Args:
        bundle: the head.
        precision: precision of the backbone.
        operating_point: threshold rule.
        evaluation: replaces the AUROCs of the training record.
        heat_maps: whether the backbone's embeddings are means of feature maps.

    Raises:
        BundleError: the training record is invalid.
        ConfigError: the evaluation measured another head.
    """
    if evaluation is not None and evaluation.head not in (None, bundle.fingerprint):
        raise ConfigError(f"the evaluation measured head {evaluation.head!r}; expected {bundle.fingerprint!r}")
    try:
        return _make_card(bundle, precision, operating_point, evaluation, heat_maps=heat_maps)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the training record of head {bundle.fingerprint} is invalid: {error!r}") from error


def _make_card(
    bundle: Bundle, precision: str, operating_point: str, evaluation: RecordedEvaluation | None, *, heat_maps: bool
) -> ModelCard:
    training = bundle.training
    images: Mapping[str, int] = training.get("rows", {})
    positives: Mapping[str, int] = training.get("train_positives", {})
    evaluation = evaluation or RecordedEvaluation(_recorded_aurocs(training), _RECORD_SOURCE)
    thresholds = bundle.thresholds[operating_point]
    train_images = images.get(Split.TRAIN.value, 0)
    methods: Mapping[str, str] | None = training.get("calibrated_by")
    return ModelCard(
        backbone=bundle.extractor.rsplit(":", 2)[0],
        extractor=bundle.extractor,
        head=bundle.fingerprint,
        precision=precision,
        operating_point=operating_point,
        heat_maps=heat_maps,
        inputs=["embedding", *bundle.inputs.covariates],
        hidden=list(bundle.hidden),
        films=dict(images),
        patients=dict(training.get("patients", {})),
        calibrated=None if methods is None else sum(method != "none" for method in methods.values()),
        label_set=bundle.label_set.name,
        noun="label" if bundle.label_set.negative_output else "finding",
        findings=[
            FindingCard(
                finding=finding,
                train_positives=positives.get(finding),
                prevalence=positives[finding] / train_images if finding in positives and train_images else None,
                threshold=thresholds[finding],
                test=evaluation.intervals.get(finding, _UNKNOWN),
            )
            for finding in bundle.label_set.outputs
        ],
        mean=evaluation.intervals.get(_MACRO, _UNKNOWN),
        source=evaluation.source,
        version=__version__,
    )


_RECORD_SOURCE = (
    "AUROC on the test split, from the head's training record; python -m head_training.evaluate adds intervals."
)


def _describe_source(metrics: Mapping[str, Any]) -> str:
    split, settings = metrics["splits"][Split.TEST.value], metrics["settings"]
    return (
        f"AUROC on {split['images']:,} test X-rays of {split['patients']:,} patients (split: "
        f"{metrics['protocol']['name']}), with {settings['confidence'] * 100:g}\u00a0% intervals over patients from "
        f"{settings['resamples']:,} resamples."
    )


def _recorded_aurocs(training: Mapping[str, Any]) -> dict[str, AurocInterval]:
    """Return the AUROCs in the training record by finding; the mean has the key macro."""
    test = training.get(Split.TEST.value)
    if test is None:
        return {}
    found = {
        finding: AurocInterval(auroc=entry["auroc"], low=None, high=None, positives=entry["positives"])
        for finding, entry in test["findings"].items()
    }
    return found | {_MACRO: AurocInterval(auroc=test["mean_auroc"], low=None, high=None, positives=None)}


def _select_aurocs(metrics: Mapping[str, Any]) -> dict[str, AurocInterval]:
    """Return the AUROCs of the predictions on the whole test split, by scope."""
    selection = {
        "split": Split.TEST.value,
        "group": "all",
        "model": "predictions",
        "metric": "auroc",
        "scale": metrics["predictions"]["scale"],
    }
    return {
        row["scope"]: AurocInterval(
            auroc=_finite_or_none(row["value"]),
            low=_finite_or_none(row["low"]),
            high=_finite_or_none(row["high"]),
            positives=row["positives"],
        )
        for row in metrics["numbers"]
        if all(row[name] == value for name, value in selection.items())
    }


def _finite_or_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
