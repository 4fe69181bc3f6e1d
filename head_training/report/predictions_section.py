"""Predictions section: test images with their labels and correct or wrong predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrfeat.errors import ReportError
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import NO_FINDING
from head_training.evaluation.labelled_predictions import read_predictions
from head_training.report.contact_sheet import ImageFolder, describe, unreadable
from head_training.report.page import ImageTile, Section, Sheet
from head_training.report.report_images import ReportImages
from head_training.report.report_inputs import EvaluationMetrics
from head_training.report.style import count, decimal, spell
from head_training.report.thresholds_section import point_name

EXAMPLES = 6
"""Number of images shown of each kind, correct and wrong."""

_POINTS = ("f1", "youden")
"""Operating points whose thresholds may be used, in order of preference."""


@dataclass(frozen=True)
class _TestImage:
    """A test image: its metadata, its positive and unknown labels, and label → predicted value."""

    row: Mapping[str, Any]
    ground_truth: frozenset[str]
    unknown: frozenset[str]
    predicted: Mapping[str, float]

    @property
    def name(self) -> str:
        return str(self.row["image_index"])


def predictions_section(
    metrics: EvaluationMetrics, predictions: Path, data: ReportImages, folder: ImageFolder
) -> Section:
    """Return test images with labels and predictions: the first correct and the first wrong ones in hash order.

    Raises:
        PredictionsError: the table is unreadable, or lacks the evaluated columns.
        ReportError: metrics.json has no thresholds.
    """
    point, thresholds = _thresholds(metrics)
    images = _test_images(metrics, predictions, data, folder)
    images.sort(key=lambda image: hashlib.sha256(image.name.encode()).hexdigest())
    wrong = [image for image in images if _errors(image, thresholds)]
    correct = [image for image in images if not _errors(image, thresholds)]
    caption = f"The first {EXAMPLES} in the order of the SHA-256 of their names: a fixed rule, not a selection by eye."
    sheets = []
    for kind, group in (("correct in every finding", correct), ("wrong in at least one finding", wrong)):
        title = f"{count(len(group))} of {count(len(images))} test images in the folder are {kind}"
        sheets.append(Sheet(title, list(_tiles(group, thresholds, folder)), caption))
    left_out = [spell(finding) for finding in metrics.content["predictions"]["findings"] if finding not in thresholds]
    lead = [
        f"A finding is predicted if its value reaches the threshold ({point_name(point)}, chosen in validation). "
        "Labels mined from reports, such as those of ChestX-ray14, are sometimes wrong.",
        *([f"Not shown, for lack of a threshold: {', '.join(left_out)}."] if left_out else []),
        *([] if images else ["The folder contains none of the test images."]),
        *([unreadable(folder).strip()] if folder.unreadable else []),
    ]
    return Section("Predictions", [sheet for sheet in sheets if sheet.tiles], lead)


def _thresholds(metrics: EvaluationMetrics) -> tuple[str, dict[str, float]]:
    """Return the operating point to apply, and finding → threshold for the findings that have one."""
    points = metrics.content["thresholds"]
    point = next((name for name in (*_POINTS, *points) if name in points), None)
    if point is None:
        raise ReportError("metrics.json has no thresholds, so predictions cannot be compared with labels")
    found = {finding: points[point].get(finding) for finding in metrics.content["predictions"]["findings"]}
    return point, {finding: threshold for finding, threshold in found.items() if threshold is not None}


def _test_images(metrics: EvaluationMetrics, path: Path, data: ReportImages, folder: ImageFolder) -> list[_TestImage]:
    table = read_predictions(path, metrics.label_set)
    if metrics.scale not in table.scales:  # the evaluation was given a prefix other than the default
        table = read_predictions(path, metrics.label_set, f"{metrics.scale}_")
    values = table.scales[metrics.scale]  # (N, F)
    row_of = {name: row for row, name in enumerate(table.images.to_pylist())}
    tested = (data.splits == Split.TEST.value).to_numpy() & data.labelled  # (N,)
    return [
        _TestImage(
            row,
            frozenset(data.positives(number)),
            frozenset(name for name, label in zip(data.names, data.all_labels[number], strict=True) if np.isnan(label)),
            dict(zip(table.findings, values[row_of[row["image_index"]]].tolist(), strict=True)),
        )
        for number, row in enumerate(data.images.to_dict("records"))
        if tested[number] and row["image_index"] in row_of and row["image_index"] in folder.names
    ]


def _errors(image: _TestImage, thresholds: Mapping[str, float]) -> list[str]:
    """Return the false-negative and false-positive findings."""
    return [
        finding
        for finding, threshold in thresholds.items()
        if finding not in image.unknown and (image.predicted[finding] >= threshold) != (finding in image.ground_truth)
    ]


def _tiles(images: list[_TestImage], thresholds: Mapping[str, float], folder: ImageFolder) -> Iterator[ImageTile]:
    """Yield the first decodable images."""
    left = EXAMPLES
    for image in images:
        thumbnail = folder.thumbnail(image.name) if left else None
        if thumbnail is not None:
            left -= 1
            label = ", ".join(spell(name) for name in image.predicted if name in image.ground_truth) or NO_FINDING
            yield ImageTile(label, thumbnail, [*_lines(image, thresholds), (describe(image.row), "plain")])


def _lines(image: _TestImage, thresholds: Mapping[str, float]) -> list[tuple[str, str]]:
    lines = []
    for finding, threshold in thresholds.items():
        if finding in image.unknown:
            continue
        value, labelled = image.predicted[finding], finding in image.ground_truth
        text = f"{spell(finding)} {decimal(value, 2)}"
        if value >= threshold:
            lines.append((f"✓ {text}", "good") if labelled else (f"✗ {text}, not labelled", "bad"))
        elif labelled:
            lines.append((f"✗ {text}, missed", "bad"))
    return lines or [("✓ no finding predicted", "good")]
