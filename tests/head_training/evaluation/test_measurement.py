"""Tests of an evaluation: every number is where its documentation states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.thresholds import choose_threshold
from cxrfeat.io.schema import METRICS
from cxrfeat.labels.findings import FINDINGS
from head_training.evaluate import format_evaluation, main
from head_training.evaluation import measurement
from head_training.evaluation.measurement import Evaluation
from tests.head_training.evaluations import Case, find, read
from tests.head_training.runs import FAST, fit

pytestmark = pytest.mark.slow  # whole reports and evaluations

FEW = ("Mass", "Hernia")
"""Findings of a system that is evaluated quickly."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def metrics(case: Case) -> dict[str, Any]:
    return case.evaluate("whole")


def test_both_files_hold_the_same_rows(case: Case, metrics: dict[str, Any]) -> None:
    """The table has the schema and the rows of the JSON; no NaN, every top-level entry is documented."""
    table = pq.read_table(case.folder / "whole" / "metrics.parquet")
    assert table.schema == METRICS
    assert table.to_pylist() == metrics["numbers"]
    json.loads((case.folder / "whole" / "metrics.json").read_text(), parse_constant=pytest.fail)
    for name in (*metrics, *metrics["predictions"], *metrics["labels"], *metrics["protocol"], *metrics["settings"]):
        assert name in (measurement.__doc__ or ""), f"{name} is not documented"


def test_no_number_is_there_twice(metrics: dict[str, Any]) -> None:
    """Split, group, model, scope, point, scale and metric are the key; unfilled values say why."""
    keys = ("split", "group", "model", "scope", "point", "scale", "metric")
    found = [tuple(row[key] for key in keys) for row in metrics["numbers"]]
    assert len(set(found)) == len(found)
    assert all(row["note"] for row in metrics["numbers"] if row["value"] is None)


def test_ranking_is_that_of_the_test_images(case: Case, metrics: dict[str, Any]) -> None:
    """Labels, scores and names met as they should, on test and on val."""
    for split, rows in (("test", slice(0, 90)), ("val", slice(90, 120))):
        for column, finding in enumerate(FINDINGS):
            row = find(metrics, split=split, scope=finding, metric="auroc")
            assert row["value"] == pytest.approx(roc_auc_score(case.labels[rows, column], case.scores[rows, column]))
            assert (row["images"], row["positives"]) == (len(case.labels[rows]), case.labels[rows, column].sum())
            assert split == "val" or row["low"] <= row["value"] <= row["high"]
    assert metrics["splits"]["test"]["patients"] == 30
    assert metrics["splits"]["test"]["counts"]["Mass"] == case.labels[:90, 4].sum()


def test_thresholds_are_chosen_on_val_and_used_on_test(case: Case, metrics: dict[str, Any], tmp_path: Path) -> None:
    """As the rules say, whatever the labels of the test images; other labels of val change them."""
    for point in ("youden", "f1", "sensitivity_0.90"):
        for column, finding in enumerate(FINDINGS):
            expected = choose_threshold(case.labels[90:120, column], case.scores[90:120, column], point)
            assert metrics["thresholds"][point][finding] == expected
            row = find(metrics, scope=finding, metric="sensitivity", point=point)
            assert row["threshold"] == expected
            found = case.scores[:90, column][case.labels[:90, column]] >= row["threshold"]
            assert row["value"] == pytest.approx(found.mean())
    assert set(metrics["thresholds"]["fixed_0.20"].values()) == {0.2}
    for rows, same in ((slice(0, 90), True), (slice(90, 120), False)):
        other = Case(tmp_path, FEW)
        other.labels[rows] = ~other.labels[rows]
        other.write_ground_truth()
        chosen = other.evaluate(f"changed-{same}")["thresholds"]["youden"]
        assert (chosen == {finding: metrics["thresholds"]["youden"][finding] for finding in FEW}) is same


def test_triage_sets_normal_studies_aside(case: Case, metrics: dict[str, Any]) -> None:
    """Any finding against none, assuming independence: threshold from val, share of normal studies on test."""
    scores = 1 - np.prod(1 - case.scores[:120], axis=1)
    ill = np.asarray(case.labels[:120].any(axis=1))
    assert find(metrics, scope="any_finding", metric="auroc")["value"] == pytest.approx(
        roc_auc_score(ill[:90], scores[:90])
    )
    threshold = choose_threshold(ill[90:], scores[90:], "sensitivity_0.95")
    assert metrics["thresholds"]["sensitivity_0.95"]["any_finding"] == pytest.approx(threshold)
    aside = scores[:90] < metrics["thresholds"]["sensitivity_0.95"]["any_finding"]
    row = find(metrics, scope="any_finding", metric="specificity", point="sensitivity_0.95")
    assert row["value"] == pytest.approx(aside[~ill[:90]].mean())
    assert row["low"] <= row["value"] <= row["high"]
    assert {row["metric"] for row in metrics["numbers"] if row["scope"] == "any_finding"} >= {
        "npv",
        "accuracy",
        "auroc",
    }


def test_subgroups_are_counted_and_complete(case: Case, metrics: dict[str, Any]) -> None:
    """Sex, age bands and view each divide the test images; each group's AUROC is that of its images."""
    wanted = {"split": "test", "scope": "macro", "metric": "auroc", "model": "predictions"}
    rows = {row["group"]: row for row in metrics["numbers"] if wanted.items() <= row.items()}
    for prefix in ("sex=", "age=", "view="):
        assert sum(row["images"] for group, row in rows.items() if group.startswith(prefix)) == 90
    women = np.flatnonzero(case.sexes[:90] == "F")
    row = find(metrics, group="sex=F", scope="Mass", metric="auroc")
    assert row["value"] == pytest.approx(roc_auc_score(case.labels[women, 4], case.scores[women, 4]))
    old = (case.ages[:90] >= 80).sum()
    assert rows["age=80+"]["images"] == old


def test_metadata_alone_is_beside_every_result(metrics: dict[str, Any]) -> None:
    """View, age + sex and all three, on the same images; here the view tells something of the first finding alone."""
    for model in ("view", "age+sex", "view+age+sex"):
        assert find(metrics, model=model, scope="macro", metric="auroc")["images"] == 90
    view = find(metrics, model="view", scope="Atelectasis", metric="auroc")
    assert view["value"] > 0.6
    assert metrics["baselines"] == {"train_images": 60, "train_patients": 20, "note": None}


def test_before_and_after_calibration_are_both_measured(tmp_path: Path) -> None:
    """Ranking on the probabilities; Brier, ECE and reliability on both."""
    case = Case(tmp_path, FEW)
    table = case.table()
    for name in table.column_names[1:]:
        table = table.append_column(name.replace("score_", "probability_"), pa.array(table[name].to_numpy() ** 2))
    case.predictions = case.write_predictions(table)
    metrics = case.evaluate()
    assert (metrics["predictions"]["scales"], metrics["predictions"]["scale"]) == (
        ["probability", "score"],
        "probability",
    )
    for scale, power in (("score", 1), ("probability", 2)):
        row = find(metrics, scale=scale, scope="Mass", metric="brier")
        assert row["value"] == pytest.approx(((case.scores[:90, 4] ** power - case.labels[:90, 4]) ** 2).mean())
        assert find(metrics, scale=scale, scope="macro", metric="ece")["value"] > 0
        assert sum(metrics["reliability"]["test"][scale]["Mass"]["images"]) == 90
    assert {row["scale"] for row in metrics["numbers"] if row["metric"] == "auroc"} == {"probability", None}
    assert case.evaluate("raw", "--prefix", "score_")["predictions"]["scales"] == ["score"]


def test_curves_are_there_for_what_can_be_drawn(case: Case, metrics: dict[str, Any]) -> None:
    """Every finding, micro and any finding, from corner to corner."""
    curves = metrics["curves"]["test"]
    assert set(curves) == {*FINDINGS, "micro", "any_finding"}
    roc, pr = curves["Mass"]["roc"], curves["Mass"]["pr"]
    assert ([axis[0] for axis in roc.values()], [axis[-1] for axis in roc.values()]) == ([0, 0], [1, 1])
    assert (pr["recall"][0], pr["precision"][0], pr["recall"][-1]) == (0, 1, 1)
    area = np.trapezoid(roc["tpr"], roc["fpr"])
    assert area == pytest.approx(roc_auc_score(case.labels[:90, 4], case.scores[:90, 4]), abs=0.01)


def test_without_val_only_fixed_thresholds_are_left(tmp_path: Path) -> None:
    """Rows without a value that say why; never a threshold from test."""
    case = Case(tmp_path, FEW)
    case.predictions = case.write_predictions(case.table().slice(0, 90))
    metrics = case.evaluate()
    assert list(metrics["splits"]) == ["test"]
    assert set(metrics["thresholds"]["youden"].values()) == {None}
    row = find(metrics, scope="Mass", metric="f1", point="youden")
    assert (row["value"], row["note"]) == (None, "no threshold: val is missing or lacks a class")
    assert find(metrics, scope="Mass", metric="f1", point="fixed_0.20")["value"] > 0


def test_a_finding_that_test_lacks_is_null_with_its_counts(tmp_path: Path) -> None:
    """No positive Hernia: null with a note, no curve, and the mean is over the others."""
    case = Case(tmp_path, FEW)
    case.labels[:90, 13] = False
    case.write_ground_truth()
    metrics = case.evaluate()
    row = find(metrics, scope="Hernia", metric="auroc")
    assert (row["value"], row["positives"], row["note"]) == (None, 0, "a class is absent")
    assert find(metrics, scope="macro", metric="auroc")["note"] == "mean over 1 of 2 findings"
    assert "Hernia" not in metrics["curves"]["test"]
    assert find(metrics, scope="Hernia", metric="brier")["value"] > 0


def test_some_findings_are_measured_and_the_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No triage without all fourteen."""
    metrics = Case(tmp_path, FEW).evaluate()
    assert len(metrics["predictions"]["missing_findings"]) == 12
    assert metrics["triage"]["note"] == "not all 14 labels are predicted"
    assert find(metrics, scope="macro", metric="auroc")["note"] == "mean over 2 of 2 findings"
    assert "not predicted: Atelectasis, Cardiomegaly" in capsys.readouterr().out


def test_missing_baselines_are_printed_with_their_reason(tmp_path: Path) -> None:
    """Baselines are printed below their heading; without them the reason is printed."""
    metrics = Case(tmp_path, FEW).evaluate()
    assert "baselines (metadata only, or untrained head), mean AUROC" in format_evaluation(Evaluation(metrics))
    alone = [row for row in metrics["numbers"] if row["model"] == "predictions"]
    without = {**metrics, "numbers": alone, "baselines": {**metrics["baselines"], "note": "no training images"}}
    printed = format_evaluation(Evaluation(without))
    assert "no baselines: no training images" in printed
    assert "mean AUROC" not in printed


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    """Shuffled predictions and ground truth give the same numbers, intervals and digest of labels."""
    case = Case(tmp_path, FEW)
    first = case.evaluate("first")
    case.write_predictions(case.table().take(np.random.default_rng(0).permutation(120)))
    header, *lines = case.ground_truth.read_text().splitlines(keepends=True)
    case.ground_truth.write_text(header + "".join(reversed(lines)))
    second = case.evaluate("second")
    assert second["labels"]["digest"] == first["labels"]["digest"]
    for row, other in zip(first["numbers"], second["numbers"], strict=True):
        # LogisticRegression stops at a tolerance of its own: its scores depend on the order a little.
        assert row == pytest.approx(other, abs=1e-9 if row["model"] == "predictions" else 0.02)


def test_seed_and_resamples_have_their_effect(tmp_path: Path) -> None:
    """They move intervals and nothing else; the same command writes the same bytes."""
    case = Case(tmp_path, FEW)
    old = find(case.evaluate("first"), scope="Mass", metric="auroc")
    for options in (("--seed", "1"), ("--resamples", "30")):
        row = find(case.evaluate("-".join(options), *options), scope="Mass", metric="auroc")
        assert row["value"] == old["value"]
        assert (row["low"], row["high"]) != (old["low"], old["high"])
        assert row["resamples"] == (30 if "--resamples" in options else 60)
    case.evaluate("again")
    for name in ("metrics.json", "metrics.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_a_run_is_measured_as_fit_measured_it(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same AUROC as in its bundle, the untrained head beside it, and all of it in the printed table."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    training = json.loads((tmp_path / "run" / "config.json").read_text())
    capsys.readouterr()
    assert (
        main(["--run", str(tmp_path / "run"), "--output", str(tmp_path / "eval"), "--resamples", "20", "--no-report"])
        == 0
    )
    metrics = read(tmp_path / "eval")
    assert metrics["predictions"]["head"] == load_bundle(tmp_path / "run" / "head").fingerprint
    for split in ("val", "test"):
        found = find(metrics, split=split, scope="macro", metric="auroc")
        assert found["value"] == pytest.approx(training[split]["mean_auroc"], abs=1e-12)
        untrained = find(metrics, split=split, model="untrained", scope="macro", metric="auroc")
        assert untrained["value"] == training["untrained"][split]["mean_auroc"]
    printed = capsys.readouterr().out
    for part in ("macro", "any_finding", "view+age+sex", "untrained", "80 images of 80 patients", "split: unknown",
                 "labels: cohort.parquet", "Research software, not a medical device"):  # fmt: skip
        assert part in printed
