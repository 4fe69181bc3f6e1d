"""Training run: a complete, consistent folder, and heads close to the best possible ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.mlp import Head
from cxrfeat.head.predictor import Predictor
from cxrfeat.io.schema import COHORT, HISTORY, grid_schema, head_predictions_schema
from cxrfeat.labels.findings import FINDINGS
from head_training.evaluation.ranking import aurocs, mean_auroc
from head_training.training import run as run_module
from head_training.training import selection
from tests.head_training import samples
from tests.head_training.runs import FAST, bundle_bytes, fit, record
from tests.head_training.samples import random_table, two_gaussians, write
from tests.multi_hot import to_multi_hot


def test_a_run_is_complete_and_consistent(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files exist, and bundle, predictions, grid and printed summary agree."""
    grid = tmp_path / "grid.toml"
    grid.write_text("hidden = [[8, 4], [6]]\nlr = [1e-2, 1e-3]\n")
    options = ("--quiet", "--epochs", "3", "--batch-size", "32", "--grid", str(grid), "--device", "cpu")
    assert fit(features, tmp_path / "run", *options) == 0
    names = {"cohort.parquet", "config.json", "grid.parquet", "head", "history.parquet", "predictions.parquet"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    tables = {name: pq.read_table(tmp_path / "run" / f"{name}.parquet") for name in ("grid", "history", "predictions")}
    assert tables["grid"].schema == grid_schema(FINDINGS)
    assert tables["history"].schema == HISTORY
    assert tables["predictions"].schema == head_predictions_schema(FINDINGS)
    rows = tables["grid"].to_pylist()
    assert [(row["index"], row["hidden"], row["lr"]) for row in rows] == [
        (0, [8, 4], 0.01), (1, [8, 4], 0.001), (2, [6], 0.01), (3, [6], 0.001)
    ]  # fmt: skip
    assert [len(rows), len(tables["history"])] == [4, 12]
    (selected,) = [row for row in rows if row["selected"]]
    assert selected["val_auroc"] == max(row["val_auroc"] for row in rows)
    training = record(tmp_path / "run")
    assert training["configuration"]["name"] == selected["name"]
    assert training["val"]["mean_auroc"] == selected["val_auroc"]
    assert training["val"]["findings"]["Hernia"]["auroc"] == selected["val_auroc_Hernia"]
    best = [row for row in tables["history"].to_pylist() if row["name"] == selected["name"]]
    assert min(best, key=lambda row: row["val_loss"])["epoch"] == selected["best_epoch"] == training["best_epoch"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {key: config[key] for key in training} == training
    assert config["features"] == str(features)
    assert len(config["grid"]) == 4
    printed = capsys.readouterr().out
    assert f"chosen: {selected['name']}" in printed
    assert f"mean                   {selected['val_auroc']:.3f}" in printed
    assert "imputed: 3 missing values of age" in printed
    calibrated = sum(method != "none" for method in training["calibrated_by"].values())
    assert f"calibrated on val: {calibrated} of 14 labels" in printed


def test_predictions_are_those_of_the_bundle(features: Path, tmp_path: Path) -> None:
    """The saved head gives the saved scores, and these give the saved AUROC, on val and test."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    bundle = load_bundle(tmp_path / "run" / "head")
    bundle.check_extractor(samples.EXTRACTOR)
    predictions = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert predictions["split"].to_pylist() == ["val"] * 40 + ["test"] * 80
    raw = {row["image_index"]: row for row in pq.read_table(features).to_pylist()}
    rows = [raw[name] for name in predictions["image_index"].to_pylist()]
    ages = [math.nan if row["age_years"] is None else row["age_years"] for row in rows]
    inputs = np.array(
        [[*row["embedding"], age, row["sex"] == "M"] for row, age in zip(rows, ages, strict=True)], dtype=np.float32
    )
    assert bundle.inputs.apply(inputs) == {"age": 2, "sex": 0}
    with torch.no_grad():
        expected = bundle.head(torch.from_numpy(inputs)).sigmoid().numpy()
    scores = np.stack([predictions[f"score_{finding}"].to_numpy() for finding in FINDINGS], axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    embeddings = np.array([row["embedding"] for row in rows], dtype=np.float32)
    covariates = {"age": np.array(ages, np.float32), "sex": np.array([row["sex"] == "M" for row in rows], np.float32)}
    probabilities = Predictor(bundle, "youden").predict(embeddings, covariates).probabilities
    saved = np.stack([predictions[f"probability_{finding}"].to_numpy() for finding in FINDINGS], axis=1)
    np.testing.assert_allclose(probabilities, saved, rtol=1e-5)
    labels = to_multi_hot(predictions["findings"].to_pylist())
    for split, part in (("val", slice(0, 40)), ("test", slice(40, 120))):
        mean, over = mean_auroc(aurocs(labels[part], scores[part], FINDINGS))
        described = record(tmp_path / "run")[split]
        assert (described["mean_auroc"], described["mean_over_findings"]) == (mean, over)


def test_the_bundle_does_not_depend_on_the_files_of_the_data(features: Path, tmp_path: Path) -> None:
    """Equal bytes, with dropout, in another folder, from other files; another seed gives other bytes."""
    shuffled = pq.read_table(features).drop_columns(["round", "status"]).take(np.random.default_rng(0).permutation(400))
    write(shuffled, tmp_path / "other", files=3)
    options = (*FAST, "--dropout", "0.2")
    assert fit(features, tmp_path / "a", *options) == 0
    assert fit(tmp_path / "other", tmp_path / "b", *options) == 0
    assert fit(features, tmp_path / "c", *options, "--seed", "1") == 0
    assert bundle_bytes(tmp_path / "a") == bundle_bytes(tmp_path / "b") != bundle_bytes(tmp_path / "c")


@pytest.mark.slow
def test_the_head_is_close_to_the_best_possible(tmp_path: Path) -> None:
    """The mean AUROC on test is within 0.01 of the best possible one, which is known for two Gaussians."""
    distance = 1.5
    folder = write(two_gaussians(12_000, distance=distance), tmp_path / "features")
    assert fit(folder, tmp_path / "run", "--quiet", "--lr", "1e-3", "--epochs", "25", "--early-stop", "4") == 0
    bayes = 0.5 * (1 + math.erf(distance / 2))  # Φ(d / √2)
    assert record(tmp_path / "run")["test"]["mean_auroc"] == pytest.approx(bayes, abs=0.01)


def test_weighted_heads_are_calibrated_to_frequencies(tmp_path: Path) -> None:
    """On test, scores of a weighted head are far above the share of positives; its probabilities are close to it."""
    random = np.random.default_rng(0)
    labels = (random.uniform(size=(4000, 14)) < 0.05).astype(np.float32)
    embeddings = (random.normal(size=(4000, 14)) + labels).astype(np.float32)
    folder = write(samples.table(embeddings, labels), tmp_path / "features")
    options = ("--quiet", "--epochs", "6", "--lr", "3e-3", "--loss-weighting", "frequency")
    assert fit(folder, tmp_path / "run", *options) == 0
    test = pq.read_table(tmp_path / "run" / "predictions.parquet", filters=[("split", "=", "test")])
    means = {
        prefix: np.mean([test[f"{prefix}_{finding}"].to_numpy().mean() for finding in FINDINGS])
        for prefix in ("score", "probability")
    }
    assert means["score"] > 0.25
    assert means["probability"] == pytest.approx(0.05, abs=0.01)
    assert set(record(tmp_path / "run")["calibrated_by"]) == set(FINDINGS)


@pytest.mark.slow
def test_age_is_an_input_and_can_be_left_out(tmp_path: Path) -> None:
    """Where age alone is predictive, AUROC is above 0.7 with it and 0.5 without."""
    random = np.random.default_rng(0)
    ages = random.uniform(5, 90, size=6000)
    labels = (random.uniform(size=(6000, 14)) < (1 / (1 + np.exp(-(ages - 50) / 10)))[:, None]).astype(np.float32)
    embeddings = random.normal(size=(6000, 8)).astype(np.float32)
    folder = write(samples.table(embeddings, labels, ages=list(ages)), tmp_path / "features")
    options = ("--quiet", "--epochs", "8", "--lr", "1e-3")
    assert fit(folder, tmp_path / "with", *options) == 0
    assert fit(folder, tmp_path / "without", *options, "--without", "age,sex") == 0
    assert record(tmp_path / "with")["test"]["mean_auroc"] > 0.7
    assert record(tmp_path / "without")["test"]["mean_auroc"] == pytest.approx(0.5, abs=0.05)


def test_a_finding_without_positives_in_val_has_no_auroc(tmp_path: Path) -> None:
    """Its AUROC on val is null, its counts are recorded, and the mean is over the others."""
    rows = random_table(300)
    findings = [
        [name for name in names if name != "Edema" or split != "val"]
        for names, split in zip(rows["findings"].to_pylist(), rows["split"].to_pylist(), strict=True)
    ]
    column = rows.schema.get_field_index("findings")
    rows = rows.set_column(column, rows.schema.field(column), pa.array(findings, rows.schema.field(column).type))
    assert fit(write(rows, tmp_path / "f"), tmp_path / "run", *FAST) == 0
    (row,) = pq.read_table(tmp_path / "run" / "grid.parquet").to_pylist()
    assert (row["val_auroc_Edema"], row["val_auroc_findings"]) == (None, 13)
    val = record(tmp_path / "run")["val"]
    assert val["findings"]["Edema"] == {"auroc": None, "positives": 0, "negatives": 30}
    assert val["mean_over_findings"] == 13
    assert record(tmp_path / "run")["test"]["mean_over_findings"] == 14


def test_the_test_split_is_used_once_and_last(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the chosen head is applied to test, after the choice; then the untrained one."""
    events: list[object] = []

    def recording_infer(head: Head, inputs: torch.Tensor) -> np.ndarray:
        events.append(len(inputs))
        return selection.infer(head, inputs)

    def recording_choose(*given: Any) -> int:
        events.append("chosen")
        return selection.choose(*given)

    monkeypatch.setattr(run_module, "infer", recording_infer)
    monkeypatch.setattr(run_module, "choose", recording_choose)
    grid = tmp_path / "grid.toml"
    grid.write_text("lr = [0.01, 0.001]\n")
    assert fit(features, tmp_path / "run", "--quiet", "--epochs", "1", "--grid", str(grid)) == 0
    assert events == [40, 40, "chosen", 40, 80, 40, 80]


def test_the_cohort_has_every_image_of_the_run_once(tmp_path: Path) -> None:
    """With metadata, training rows included; augmented copies excluded."""
    rows = random_table(60)
    flipped = rows.slice(0, 5)
    column = flipped.schema.get_field_index("augmentation")
    flipped = flipped.set_column(column, flipped.schema.field(column), pa.array(["hflip"] * 5))
    folder = write(pa.concat_tables([rows, flipped]), tmp_path / "features")
    assert fit(folder, tmp_path / "run", *FAST) == 0
    cohort = pq.read_table(tmp_path / "run" / "cohort.parquet")
    assert cohort.schema == COHORT
    expected = {row["image_index"]: row for row in rows.select(COHORT.names).to_pylist()}
    assert {row["image_index"]: row for row in cohort.to_pylist()} == expected
    assert len(cohort) == 60


def test_positives_of_the_training_split_are_recorded(tmp_path: Path) -> None:
    """Next to the number of rows: together, the prevalence in training; other splits are not counted."""
    rows = random_table(60)
    assert fit(write(rows, tmp_path / "features"), tmp_path / "run", *FAST) == 0
    training = [row["findings"] for row in rows.to_pylist() if row["split"] == "train"]
    counted = record(tmp_path / "run")
    assert counted["train_positives"] == {name: sum(name in names for names in training) for name in FINDINGS}
    assert counted["rows"]["train"] == len(training)


def test_the_untrained_head_is_recorded(features: Path, tmp_path: Path) -> None:
    """The baseline of the training: AUROCs of the initial weights are near 0.5 and depend on the seed."""
    assert fit(features, tmp_path / "a", *FAST) == 0
    assert fit(features, tmp_path / "b", *FAST, "--seed", "1") == 0
    a, b = (record(tmp_path / name)["untrained"]["test"] for name in "ab")
    for ranking in (a, b):
        assert ranking["mean_auroc"] == pytest.approx(0.5, abs=0.1)
        assert (
            ranking["findings"]["Mass"]["positives"] == record(tmp_path / "a")["test"]["findings"]["Mass"]["positives"]
        )
    assert a != b
