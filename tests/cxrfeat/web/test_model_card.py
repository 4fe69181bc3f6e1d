"""Model card: the training record, the intervals of an evaluation, and null for the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrfeat.errors import BundleError, ConfigError
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.web.model_card import make_card, read_evaluation
from cxrfeat.web.schemas import AurocInterval
from cxrfeat.web.service import ServiceSettings, open_service
from tests import fakes
from tests.cxrfeat.web.conftest import TRAINING


def evaluation() -> dict[str, Any]:
    """Return the parts of metrics.json that the card reads, with additional rows that it must ignore."""
    wanted = {"split": "test", "group": "all", "model": "predictions", "metric": "auroc", "scale": "probability"}
    others = [{name: "other"} for name in wanted]
    scopes = [*FINDINGS[:-1], "macro"]
    numbers = [
        {**wanted, "scope": scope, "value": 0.8, "low": 0.7, "high": 0.9, "positives": 7} | other | {"value": value}
        for scope in scopes
        for other, value in [*((other, 0.1) for other in others), ({}, 0.8)]
    ]
    numbers.append({**wanted, "scope": "Hernia", "value": None, "low": None, "high": None, "positives": 0})
    return {
        "format": 1,
        "predictions": {"scale": "probability"},
        "protocol": {"name": "official list"},
        "settings": {"resamples": 1000, "confidence": 0.95},
        "splits": {"test": {"images": 25596, "patients": 2797}},
        "numbers": numbers,
    }


def write(folder: Path, content: Any) -> Path:
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def test_the_record_is_on_the_card() -> None:
    """Images and patients by split, prevalence in training, AUROC without intervals, thresholds."""
    bundle = replace(fakes.bundle(4), training=TRAINING)
    card = make_card(bundle, "fp32", "youden")
    assert (card.head, card.extractor, card.backbone) == (bundle.fingerprint, "fake:0:fake", "fake")
    assert (card.films["train"], card.patients["test"]) == (1000, 120)
    assert [row.finding for row in card.findings] == list(FINDINGS)
    assert card.findings[1].prevalence == 0.02
    assert card.findings[1].test == AurocInterval(auroc=0.75, low=None, high=None, positives=30)
    assert (card.findings[-1].threshold, card.findings[-1].test.auroc) == (None, None)
    assert (card.mean.auroc, card.inputs) == (0.75, ["embedding", "age", "sex"])
    assert card.calibrated is None
    methods = {**dict.fromkeys(FINDINGS, "none"), "Mass": "platt"}
    assert make_card(replace(bundle, training={**TRAINING, "calibrated_by": methods}), "fp32", "youden").calibrated == 1


def test_a_bundle_without_a_record_says_so() -> None:
    """Older bundles and those of other programs: null, never a guess."""
    card = make_card(fakes.bundle(4), "bf16", "f1")
    assert (card.films, card.mean.auroc, card.precision) == ({}, None, "bf16")
    assert {(row.prevalence, row.train_positives, row.test.auroc) for row in card.findings} == {(None, None, None)}
    assert {row.threshold for row in card.findings} == {0.25}


@pytest.mark.parametrize(
    "record",
    [{"rows": []}, {"test": {}}, {"rows": {"train": "many"}}, {"rows": {"train": 1}, "train_positives": {"Mass": 2}}],
)
def test_a_record_that_cannot_be_read_is_refused(record: dict[str, Any]) -> None:
    """A bundle of another program may hold anything there, such as a share above 1."""
    with pytest.raises(BundleError, match=r"the training record of head mlp-5-4:.* is invalid"):
        make_card(replace(fakes.bundle(4), training=record), "fp32", "youden")


@pytest.mark.parametrize("name", ["", "metrics.json"])
def test_an_evaluation_gives_intervals(name: str, tmp_path: Path, settings: ServiceSettings) -> None:
    """Only those of the predictions on the whole test split, from the folder or the file."""
    card = open_service(replace(settings, evaluation=write(tmp_path, evaluation()) / name)).card
    assert card.findings[0].test == AurocInterval(auroc=0.8, low=0.7, high=0.9, positives=7)
    assert card.findings[-1].test == AurocInterval(auroc=None, low=None, high=None, positives=0)
    assert card.mean.low == 0.7
    for part in ("25,596 test X-rays", "2,797 patients", "official list", "95\u00a0% intervals", "1,000 resamples"):
        assert part in card.source


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 2}, "format 2; expected 1"),
        ([], "format None"),
        ({"format": 1}, "lacks an entry that the model card needs: KeyError"),
        (evaluation() | {"numbers": [{}]}, "lacks an entry that the model card needs"),
    ],
)
def test_an_evaluation_that_cannot_be_read_is_named(content: Any, message: str, tmp_path: Path) -> None:
    """The error names the file and the problem."""
    with pytest.raises(ConfigError, match=message):
        read_evaluation(write(tmp_path, content))
    with pytest.raises(ConfigError, match=r"cannot read the evaluation .*none"):
        read_evaluation(tmp_path / "none")
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read the evaluation"):
        read_evaluation(tmp_path)


def test_an_evaluation_of_another_head_is_refused(tmp_path: Path) -> None:
    """A card must not show the AUROC of another head; an evaluation without a head fingerprint is accepted."""
    bundle = fakes.bundle(4)
    for head in (bundle.fingerprint, None):
        metrics = evaluation()
        metrics["predictions"]["head"] = head
        assert make_card(bundle, "fp32", "youden", read_evaluation(write(tmp_path, metrics))).mean.auroc == 0.8
    metrics["predictions"]["head"] = "mlp-1:other"
    with pytest.raises(ConfigError, match=rf"measured head 'mlp-1:other'; expected '{bundle.fingerprint}'"):
        make_card(bundle, "fp32", "youden", read_evaluation(write(tmp_path, metrics)))
