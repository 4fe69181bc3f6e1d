"""The model card: what a bundle's record, and an evaluation where there is one, say of the head."""

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
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.web.schemas import AurocInterval, FindingCard, ModelCard

_MACRO = "macro"

_UNKNOWN = AurocInterval(auroc=None, low=None, high=None, positives=None)


@dataclass(frozen=True)
class RecordedEvaluation:
    """How well a head ranks.

    Attributes:
        intervals: AUROCs by finding; the mean is under ``macro``.
        source: where they come from, in a sentence.
        head: fingerprint of the head that was measured; None where the evaluation does not know.
    """

    intervals: Mapping[str, AurocInterval]
    source: str
    head: str | None = None


def read_evaluation(path: Path) -> RecordedEvaluation:
    """Read ``metrics.json`` of ``python -m head_training.evaluate``, or the folder that holds it.

    Raises:
        ConfigError: it can't be read, or is of another format.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the evaluation {file} can't be read: {error}") from error
    found = metrics.get("format") if isinstance(metrics, dict) else None
    if found != METRICS_FORMAT:
        raise ConfigError(f"the evaluation {file} has format {found!r}; expected {METRICS_FORMAT}")
    try:
        return RecordedEvaluation(_measured(metrics), _describe(metrics), metrics["predictions"].get("head"))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the evaluation {file} lacks what the model card needs: {error!r}") from error


def make_card(
    bundle: Bundle, precision: str, operating_point: str, evaluation: RecordedEvaluation | None = None
) -> ModelCard:
    """Put together what is known; what the bundle's record lacks is null.

    Args:
        bundle: the head.
        precision: that films are embedded in.
        operating_point: rule of the thresholds.
        evaluation: in place of what the bundle's own record says.

    Raises:
        BundleError: a record that can't be read.
        ConfigError: an evaluation of another head.
    """
    if evaluation is not None and evaluation.head not in (None, bundle.fingerprint):
        raise ConfigError(f"the evaluation measured head {evaluation.head!r}; expected one of {bundle.fingerprint!r}")
    try:
        return _make_card(bundle, precision, operating_point, evaluation)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the training record of head {bundle.fingerprint} can't be read: {error!r}") from error


def _make_card(
    bundle: Bundle, precision: str, operating_point: str, evaluation: RecordedEvaluation | None
) -> ModelCard:
    training = bundle.training
    films: Mapping[str, int] = training.get("rows", {})
    positives: Mapping[str, int] = training.get("train_positives", {})
    evaluation = evaluation or RecordedEvaluation(_recorded(training), _RECORD)
    thresholds = bundle.thresholds[operating_point]
    train = films.get(Split.TRAIN.value, 0)
    methods: Mapping[str, str] | None = training.get("calibrated_by")
    return ModelCard(
        backbone=bundle.extractor.split(":")[0],
        extractor=bundle.extractor,
        head=bundle.fingerprint,
        precision=precision,
        operating_point=operating_point,
        inputs=["embedding", *bundle.inputs.covariates],
        hidden=list(bundle.hidden),
        films=dict(films),
        patients=dict(training.get("patients", {})),
        calibrated=None if methods is None else sum(method != "none" for method in methods.values()),
        findings=[
            FindingCard(
                finding=finding,
                train_positives=positives.get(finding),
                prevalence=positives[finding] / train if finding in positives and train else None,
                threshold=thresholds[finding],
                test=evaluation.intervals.get(finding, _UNKNOWN),
            )
            for finding in FINDINGS
        ],
        mean=evaluation.intervals.get(_MACRO, _UNKNOWN),
        source=evaluation.source,
        version=__version__,
    )


_RECORD = "AUROC on the test split, as the head's own record has it; python -m head_training.evaluate gives intervals."


def _describe(metrics: Mapping[str, Any]) -> str:
    split, settings = metrics["splits"][Split.TEST.value], metrics["settings"]
    return (
        f"AUROC on {split['images']:,} test films of {split['patients']:,} patients (split: "
        f"{metrics['protocol']['name']}), with {settings['confidence'] * 100:g}\u00a0% intervals over patients from "
        f"{settings['resamples']:,} resamples."
    )


def _recorded(training: Mapping[str, Any]) -> dict[str, AurocInterval]:
    """Return the AUROCs of the bundle's own record, by finding; the mean is under macro."""
    test = training.get(Split.TEST.value)
    if test is None:
        return {}
    found = {
        finding: AurocInterval(auroc=entry["auroc"], low=None, high=None, positives=entry["positives"])
        for finding, entry in test["findings"].items()
    }
    return found | {_MACRO: AurocInterval(auroc=test["mean_auroc"], low=None, high=None, positives=None)}


def _measured(metrics: Mapping[str, Any]) -> dict[str, AurocInterval]:
    """Return the AUROCs of the predictions on all of test, by scope."""
    wanted = {
        "split": Split.TEST.value,
        "group": "all",
        "model": "predictions",
        "metric": "auroc",
        "scale": metrics["predictions"]["scale"],
    }
    return {
        row["scope"]: AurocInterval(
            auroc=_finite(row["value"]), low=_finite(row["low"]), high=_finite(row["high"]), positives=row["positives"]
        )
        for row in metrics["numbers"]
        if all(row[name] == value for name, value in wanted.items())
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
