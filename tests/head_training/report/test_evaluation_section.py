"""The sections on test results: the numbers of metrics.json, unchanged, and no figure broken by unusual ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrfeat.errors import ReportError
from cxrfeat.labels.findings import FINDINGS
from head_training.report.build import METRICS_SECTIONS
from head_training.report.calibration_section import calibration_section
from head_training.report.comparison_section import literature_section
from head_training.report.evaluation_section import provenance
from head_training.report.page import Multiples, Plot, Section, Table, render
from head_training.report.report_inputs import ABSENT, EvaluationMetrics, read_metrics
from head_training.report.style import spell, with_interval
from head_training.report.thresholds_section import operating_section, triage_section
from tests.head_training.evaluations import Case, find
from tests.head_training.report.pages import Page

pytestmark = pytest.mark.slow  # whole reports and evaluations

Maker = Callable[[EvaluationMetrics], Section]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("case"))
    case.evaluate("eval", "--resamples", "20")
    return case


def sections_of(folder: Path, *makers: Maker) -> dict[str, Section]:
    """Return the sections of these functions, by default all, by name."""
    metrics = read_metrics(folder / "metrics.json")
    return {section.name: section for section in (make(metrics) for make in makers or METRICS_SECTIONS)}


def content(case: Case, output: str = "eval") -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((case.folder / output / "metrics.json").read_text())
    return metrics


def rewrite(case: Case, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the case's metrics.json after a change, and return its folder."""
    metrics = content(case)
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def table(section: Section, title: str) -> dict[str, list[str]]:
    (found,) = [block for block in section.blocks if isinstance(block, Table) and title in block.title]
    return {row[0]: list(row[1:]) for row in found.rows}


def written(row: dict[str, Any], digits: int = 3) -> str:
    return with_interval(row["value"], row["low"], row["high"], digits)


def test_numbers_are_those_of_the_file(case: Case) -> None:
    """Means, AP, operating points, triage, baselines and groups equal the values in the file."""
    metrics, sections = content(case), sections_of(case.folder / "eval")
    value, name = sections["Test"].facts[0]
    assert value == written(find(metrics, scope="macro", metric="auroc"))
    assert name == f"mean AUROC on test (split: unknown; labels: {metrics['labels']['digest'][:8]})"
    precision = table(sections["Test"], "mean average precision")
    youden = table(sections["Operating points"], "Youden's J")
    groups = table(sections["Subgroups"], "each finding in each group")
    baselines = table(sections["Baselines"], "and of the baselines")
    for finding in FINDINGS:
        name = spell(finding)
        assert precision[name][2] == written(find(metrics, scope=finding, metric="average_precision"))
        for column, metric in ((1, "sensitivity"), (2, "specificity"), (3, "ppv")):
            row = find(metrics, scope=finding, metric=metric, point="youden")
            assert youden[name][column] == written(row, 2)
            assert youden[name][0] == f"{row['threshold']:.3f}"
        women = find(metrics, scope=finding, metric="auroc", group="sex=F")
        assert f"{women['value']:.3f} ({women['positives']})" in groups[name]
        assert f"{find(metrics, scope=finding, metric='auroc', model='view')['value']:.3f}" in baselines[name]
    triage = table(sections["Triage"], "Triage results")
    set_aside = find(metrics, scope="any_finding", metric="specificity", point="sensitivity_0.95")
    assert triage["Sensitivity 0.95"][2] == written(set_aside)
    for section in ("Test", "Literature"):
        assert any("Split protocol: unknown" in text for text in sections[section].lead)
        assert any(metrics["labels"]["sha256"][:12] in text for text in sections[section].lead)


def test_every_section_has_its_figures(case: Case) -> None:
    """Forest plots, 14 panels of ROC, PR and reliability, calibration errors and triage are all on the page."""
    sections = sections_of(case.folder / "eval")
    panels = [
        len(block.panels) for section in sections.values() for block in section.blocks if isinstance(block, Multiples)
    ]
    plots = sum(isinstance(block, Plot) for section in sections.values() for block in section.blocks)
    assert panels == [14, 14, 14]
    assert plots == 1 + 2 + 2 + 1 + 1  # AUROC; ECE, Brier; triage, its ROC; baselines; groups
    assert Page(render("t", "s", list(sections.values()))).tags["svg"] == sum(panels) + plots


def test_literature_keeps_the_two_protocols_apart(case: Case, tmp_path: Path) -> None:
    """Ours is listed with the results on the official split if it uses that split, and never with random splits."""
    section = sections_of(case.folder / "eval", literature_section)["Literature"]
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [table.title for table in tables] == ["AUROC on the official split", "AUROC on random splits"]
    assert not set(tables[0].header) & (set(tables[1].header) - {""})
    assert not any("this evaluation" in table.header for table in tables)
    assert any("do not include this evaluation" in text for text in section.lead)
    assert ["not been checked" in table.caption for table in tables] == [True, False]
    changed = rewrite(case, tmp_path, lambda metrics: metrics["protocol"].update(name="official list"))
    official = sections_of(changed, literature_section)["Literature"]
    headers = [block.header for block in official.blocks if isinstance(block, Table)]
    assert ["this evaluation" in header for header in headers] == [True, False]


def test_leaking_patients_are_reported(case: Case, tmp_path: Path) -> None:
    """A warning about patients in both sets is beside the mean."""
    changed = rewrite(case, tmp_path, lambda metrics: metrics["protocol"].update(patients_in_both=3))
    assert any("3 patients are in both" in text for text in provenance(read_metrics(changed / "metrics.json")))


def no_positives(case: Case) -> None:
    case.labels[:, 13] = False


def all_positive(case: Case) -> None:
    case.labels[:, 0] = True


def nothing_at_all(case: Case) -> None:
    case.labels[:90] = False


def equal_scores(case: Case) -> None:
    case.scores[:] = 0.5


def certain(case: Case) -> None:
    case.scores[:] = case.labels[:120] if len(case.scores) == 120 else case.labels


@pytest.mark.parametrize("spoil", [no_positives, all_positive, nothing_at_all, equal_scores, certain])
def test_unusual_labels_and_scores_break_no_figure(tmp_path: Path, spoil: Callable[[Case], None]) -> None:
    """A finding in no or every image, no finding in test, equal scores, and a perfect ranking."""
    case = Case(tmp_path)
    spoil(case)
    case.write_ground_truth()
    case.write_predictions(case.table())
    case.evaluate("eval", "--resamples", "5")
    sections = sections_of(tmp_path / "eval")
    page = Page(render("t", "s", list(sections.values())))
    assert "nan" not in page.text.lower().split()
    forest = sections["Test"].blocks[0].title
    if spoil is nothing_at_all:
        assert forest == "No finding has both positive and negative test images"
    if spoil is no_positives:
        assert table(sections["Test"], "mean average precision")["Hernia"][2] == "–"
        (roc, *_) = [block for block in sections["Test"].blocks if isinstance(block, Multiples)]
        assert (len(roc.panels), "negatives: Hernia" in roc.caption) == (13, True)


def test_what_was_not_computed_is_a_dash(tmp_path: Path) -> None:
    """Few findings, no val and no training images: no thresholds, no triage, no baselines, and no error."""
    case = Case(tmp_path)
    case.write_predictions(case.table().select(["image_index", "score_Mass", "score_Edema"]).slice(0, 90))
    case.write_ground_truth()
    everything = case.write_list("all.txt", range(120))
    options = [
        "--predictions",
        str(case.predictions),
        "--truth",
        str(case.ground_truth),
        "--split-list",
        str(everything),
    ]
    from head_training.evaluate import main

    assert main([*options, "--output", str(tmp_path / "eval"), "--resamples", "5"]) == 0
    sections = sections_of(tmp_path / "eval", operating_section, triage_section)
    assert sections["Triage"].blocks == []
    youden = table(sections["Operating points"], "Youden's J")
    assert youden["Mass"][:2] == ["–", "–"]
    assert table(sections["Operating points"], "Fixed 0.20")["Mass"][0] == "0.200"


def test_before_and_after_calibration_are_told_apart(tmp_path: Path) -> None:
    """With scores and probabilities, titles name the mean error before and after."""
    case = Case(tmp_path)
    table_of_both = case.table("probability_")
    for finding in FINDINGS:
        table_of_both = table_of_both.append_column(
            f"score_{finding}", [np.sqrt(table_of_both[f"probability_{finding}"])]
        )
    case.write_predictions(table_of_both)
    metrics = case.evaluate("eval", "--resamples", "5")
    means = {
        scale: np.mean([find(metrics, scope=finding, metric="ece", scale=scale)["value"] for finding in FINDINGS])
        for scale in ("score", "probability")
    }
    title = sections_of(tmp_path / "eval", calibration_section)["Calibration"].blocks[0].title
    assert title == f"Calibration changes the mean ECE from {means['score']:.3f} to {means['probability']:.3f}"


def test_a_file_that_cannot_be_read_is_refused(case: Case, tmp_path: Path) -> None:
    """A missing file, invalid JSON, another format, a missing key, a repeated row: each error names the problem."""
    path = tmp_path / "metrics.json"
    with pytest.raises(ReportError, match="does not exist; expected a complete output folder"):
        read_metrics(path)
    for text, message in (
        ("[1]", "contains a list; expected a JSON object"),
        ("{", "cannot read"),
        ('{"format": 2}', "has format 2"),
    ):
        path.write_text(text)
        with pytest.raises(ReportError, match=message):
            read_metrics(path)
    rewrite(case, tmp_path, lambda metrics: metrics.pop("curves"))
    with pytest.raises(ReportError, match="lacks the keys curves; it has"):
        read_metrics(path)
    rewrite(case, tmp_path, lambda metrics: metrics["numbers"].append(metrics["numbers"][0]))
    with pytest.raises(ReportError, match="repeats an earlier row"):
        read_metrics(path)
    assert read_metrics(case.folder / "eval" / "metrics.json").metric("auroc", "nothing") is ABSENT
