"""The section with films, their labels and what was predicted, right and wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrfeat.errors import ReportError
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import parse_findings
from head_training.evaluation.labelled_predictions import read_predictions
from head_training.report.contact_sheet import ImageFolder, about, unreadable
from head_training.report.page import ImageTile, Section, Sheet
from head_training.report.report_images import ReportImages
from head_training.report.report_inputs import EvaluationMetrics
from head_training.report.style import count, decimal, spell
from head_training.report.thresholds_section import point_name

EXAMPLES = 6
"""Films of either kind."""

_POINTS = ("f1", "youden")
"""Operating points to call findings at, the preferred one first."""


@dataclass(frozen=True)
class _Case:
    """A test film: its metadata, its labels, and finding → predicted value."""

    row: Mapping[str, Any]
    truth: frozenset[str]
    predicted: Mapping[str, float]

    @property
    def name(self) -> str:
        return str(self.row["image_index"])


def predictions_section(
    metrics: EvaluationMetrics, predictions: Path, data: ReportImages, films: ImageFolder
) -> Section:
    """Return test films with truth and prediction: the first right and the first wrong ones in a drawing by hash.

    Raises:
        PredictionsError: the table can't be read.
        ReportError: it lacks what was evaluated, or there is no threshold.
    """
    point, thresholds = _thresholds(metrics)
    cases = _cases(metrics, predictions, data, films)
    cases.sort(key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())
    wrong = [case for case in cases if _errors(case, thresholds)]
    right = [case for case in cases if not _errors(case, thresholds)]
    caption = f"The first {EXAMPLES} in the order of the SHA-256 of their names: nobody chose them."
    sheets = []
    for kind, part in (("exactly right", right), ("wrong in at least one finding", wrong)):
        title = f"{count(len(part))} of {count(len(cases))} test films in the folder are {kind}"
        sheets.append(Sheet(title, list(_examples(part, thresholds, films)), caption))
    left_out = [spell(finding) for finding in metrics.content["predictions"]["findings"] if finding not in thresholds]
    lead = [
        f"Predicted is what reaches its threshold ({point_name(point)}, chosen on val). Labels that were mined from reports, "
        "as those of ChestX-ray14, are wrong at times themselves.",
        *([f"Not judged, for want of a threshold: {', '.join(left_out)}."] if left_out else []),
        *([unreadable(films).strip()] if films.unreadable else []),
    ]
    return Section("Predictions", [sheet for sheet in sheets if sheet.films], lead)


def _thresholds(metrics: EvaluationMetrics) -> tuple[str, dict[str, float]]:
    """Return the operating point to call at and finding → threshold, those without one left out."""
    points = metrics.content["thresholds"]
    point = next((name for name in (*_POINTS, *points) if name in points), None)
    if point is None:
        raise ReportError("metrics.json has no thresholds, so no prediction can be called right or wrong")
    known = {finding: points[point].get(finding) for finding in metrics.content["predictions"]["findings"]}
    return point, {finding: threshold for finding, threshold in known.items() if threshold is not None}


def _cases(metrics: EvaluationMetrics, path: Path, data: ReportImages, films: ImageFolder) -> list[_Case]:
    table = read_predictions(path)
    if metrics.scale not in table.scales:  # it was evaluated under a prefix that is not the preferred one
        table = read_predictions(path, f"{metrics.scale}_")
    values = table.scales[metrics.scale]
    place_of = {name: place for place, name in enumerate(table.images.to_pylist())}
    tested = data.images[(data.splits == Split.TEST.value).to_numpy() & data.labelled]
    return [
        _Case(
            row,
            frozenset(parse_findings(row["findings"])),
            dict(zip(table.findings, values[place_of[row["image_index"]]].tolist(), strict=True)),
        )
        for row in tested.to_dict("records")
        if row["image_index"] in place_of and row["image_index"] in films.names
    ]


def _errors(case: _Case, thresholds: Mapping[str, float]) -> list[str]:
    """Return the findings that are missed or called falsely."""
    return [
        finding
        for finding, threshold in thresholds.items()
        if (case.predicted[finding] >= threshold) != (finding in case.truth)
    ]


def _examples(cases: list[_Case], thresholds: Mapping[str, float], films: ImageFolder) -> Iterator[ImageTile]:
    """Yield the first films that can be decoded."""
    left = EXAMPLES
    for case in cases:
        image = films.thumbnail(case.name) if left else None
        if image is not None:
            left -= 1
            label = ", ".join(map(spell, parse_findings(case.row["findings"]))) or "No Finding"
            yield ImageTile(label, image, [*_lines(case, thresholds), (about(case.row), "plain")])


def _lines(case: _Case, thresholds: Mapping[str, float]) -> list[tuple[str, str]]:
    lines = []
    for finding, threshold in thresholds.items():
        value, there = case.predicted[finding], finding in case.truth
        text = f"{spell(finding)} {decimal(value, 2)}"
        if value >= threshold:
            lines.append((f"✓ {text}", "good") if there else (f"✗ {text}, not labelled", "bad"))
        elif there:
            lines.append((f"✗ {text}, missed", "bad"))
    return lines or [("✓ nothing predicted", "good")]
