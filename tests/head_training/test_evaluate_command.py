"""Tests of the evaluate command: exit codes, one-line errors, and nothing lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from cxrfeat.errors import ReportError
from head_training.evaluate import main
from head_training.report.build import ReportConfig
from tests.head_training.evaluations import Case, read


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def metrics(case: Case) -> dict[str, Any]:
    return case.evaluate("whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--predictions", "p.parquet"), "--predictions without --truth"),
        (("--run", "r", "--truth", "t.csv", "--val-list", "v"), "--truth, --val-list cannot be combined with --run"),
        (("--run", "nowhere"), "nowhere lacks"),
        (("--run", "r", "--labels", "nih14", "--columns", "c"), "--columns, --labels cannot be combined with --run"),
        (("--predictions", "p.parquet", "--truth", "t.csv", "--labels", "all"), "unknown label set 'all'"),
        (("--predictions", "p.parquet", "--truth", "t.csv"), "p.parquet does not exist or is not a file"),
        (("--run", "r", "--resamples", "0"), "--resamples is 0; expected at least 1"),
        (("--run", "r", "--seed", "-1"), "--seed is -1; expected at least 0"),
    ],
)
def test_what_cannot_be_done_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str], message: str
) -> None:
    """One line, and nothing written."""
    assert main([*options, "--output", str(tmp_path / "eval")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_an_evaluation_is_never_overwritten(
    case: Case, metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A second one into the same folder is refused before it costs anything."""
    assert main(case.options("whole")) == 2
    assert "already exists; give another --output" in capsys.readouterr().err
    assert read(case.folder / "whole") == metrics


@pytest.mark.slow
def test_a_report_that_cannot_be_written_leaves_the_numbers(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """metrics.json is complete, and the one line of the error states it."""

    def fail(config: ReportConfig) -> None:
        raise ReportError(f"{config.output} is full")

    monkeypatch.setattr("head_training.evaluate.write_report", fail)
    options = [option for option in case.options("full") if option != "--no-report"]
    assert main(options) == 1
    assert re.search(
        r"error: .*full/metrics.json was written, but the report failed: .*is full\n", capsys.readouterr().err
    )
    assert "numbers" in read(case.folder / "full")


def test_an_output_that_is_a_file_is_refused(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    assert main(case.options("truth.csv")) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err


def test_any_table_of_labels_and_any_label_set(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of flags with a column map is a ground truth; what is measured and what is odd about it is said."""
    rows = zip(case.images, case.labels[:, 4], case.patients, strict=True)
    table = "\n".join(["file;tumour;who", *(f"x/{name};{int(mass)};{patient}" for name, mass, patient in rows)])
    (case.folder / "flags.csv").write_text(table)
    (case.folder / "map.toml").write_text('image = "file"\npatient = "who"\n[labels.flags]\ntumour = "Mass"\n')
    (case.folder / "set.toml").write_text('labels = ["Mass"]\n')
    predictions = pa.table({"image_index": case.images[:120], "p Mass": (case.scores[:120, 4] > 0.5).astype(float)})
    path = case.write_predictions(predictions, "hard.parquet")
    options = ["--predictions", str(path), "--truth", str(case.folder / "flags.csv"), "--no-report"]
    options += ["--columns", str(case.folder / "map.toml"), "--labels", str(case.folder / "set.toml")]
    assert main([*options, "--output", str(case.folder / "flags"), "--resamples", "20"]) == 0
    printed = capsys.readouterr()
    assert "measuring the columns p Mass as labels of set" in printed.err
    assert "warning: only 0 and 1 in Mass: hard labels" in printed.err
    metrics = read(case.folder / "flags")
    (auroc,) = [
        row["value"]
        for row in metrics["numbers"]
        if (row["scope"], row["metric"], row["group"], row["model"]) == ("Mass", "auroc", "all", "predictions")
    ]
    assert auroc == pytest.approx(roc_auc_score(case.labels[:120, 4], case.scores[:120, 4] > 0.5))
