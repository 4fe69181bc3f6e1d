"""Images of a report, with their labels and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import MetadataError, ReportError
from cxrfeat.labels.findings import NO_FINDING
from cxrfeat.labels.image_metadata import load_image_metadata
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14
from cxrfeat.labels.metadata import Metadata
from cxrfeat.labels.splits import SplitRule
from head_training.evaluation.ground_truth import labels_of
from head_training.evaluation.sources import read_cohort_table
from head_training.report.style import count

_BY_LIST = "Official lists; one in eight patients of train_val is in val (validation), by a hash of the patient."
_BY_HASH = "By a hash of the patient: about 70 % of patients are in train, 10 % in val (validation) and 20 % in test."
_BY_TABLE = "Splits of the metadata table; patients without one are split by a hash."
_OF_RUN = "Splits of the run: train for training, val (validation) for selecting a configuration, test for evaluation."

_COLUMNS = ("image_index", "patient_id", "age_years", "sex", "view_position")


@dataclass(frozen=True)
class ReportImages:
    """N images of a metadata table or of a run.

    Attributes:
        images: one row per image, with image_index, patient_id, age_years, sex and view_position.
        all_labels: (N, F) labels of 0 and 1, NaN where unknown.
        label_set: the F labels.
        splits: train, val or test for each image.
        protocol: sentence on how the images were split.
        source: sentence on the origin of the images and on omitted lines.
        rejected: one row per rejected line, with number, reason and message.

    Raises MetadataError for metadata without a usable line.
    """

    images: pd.DataFrame
    all_labels: NDArray[np.float32]
    label_set: LabelSet
    splits: pd.Series
    protocol: str
    source: str
    rejected: pd.DataFrame

    def __post_init__(self) -> None:
        """Reject metadata without a usable line."""
        if self.images.empty:
            reasons = _list_reasons(self.rejected) or "none"
            raise MetadataError(f"none of the {len(self.rejected)} metadata lines is usable; rejected: {reasons}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the F labels."""
        return self.label_set.outputs

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """Mask (N,) of the images with a known label; No Finding is a label."""
        labelled: NDArray[np.bool_] = np.logical_or.reduce(~np.isnan(self.all_labels), axis=1)
        return labelled

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """Labels (labelled images, F): 1 for positive, 0 for negative or unknown."""
        return np.nan_to_num(self.all_labels[self.labelled])

    @property
    def findings(self) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Names of the findings, without the negative label, and their (labelled images, findings) labels."""
        count = self.label_set.findings_count
        return self.names[:count], self.labels[:, :count]

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """Number (F,) of images whose label is known."""
        known: NDArray[np.int64] = (~np.isnan(self.all_labels)).sum(axis=0)
        return known

    def positives(self, row: int) -> list[str]:
        """Return the positive labels of an image."""
        return [name for name, value in zip(self.names, self.all_labels[row], strict=True) if value == 1]

    def only_label(self) -> list[str | None]:
        """Return for each image its single positive label, No Finding without any, None for several or unlabelled."""
        found = [self.positives(row) for row in range(len(self.images))]
        return [
            None if not known or len(names) > 1 else names[0] if names else NO_FINDING
            for names, known in zip(found, self.labelled, strict=True)
        ]


def read_report_images(
    metadata: Sequence[str],
    train_val_list: str | None = None,
    test_list: str | None = None,
    *,
    columns: str | None = None,
    label_set: LabelSet = NIH14,
) -> ReportImages:
    """Read a metadata table and split its patients.

    Raises:
        ConfigError, MetadataError: as :func:`cxrfeat.labels.image_metadata.load_image_metadata`.
    """
    rule = SplitRule(train_val_list=train_val_list, test_list=test_list)
    content = load_image_metadata(metadata, [], columns=columns, rule=rule).metadata
    accepted = content.accepted()
    invalid = pc.is_valid(content.lines["reason"]).to_numpy()
    rejected = content.rejected().select(["reason", "message"]).to_pandas()
    rejected.insert(0, "number", np.array(content.numbers)[invalid])
    protocol = _BY_LIST if train_val_list else _BY_TABLE if content.column_map.split else _BY_HASH
    return _make(accepted, label_set, protocol, _describe(content, rejected), rejected)


def read_cohort(path: Path, label_set: LabelSet) -> ReportImages:
    """Read the images of a run from its cohort.parquet.

    Raises:
        ReportError: the file is missing or unreadable.
    """
    try:
        table = read_cohort_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"cannot read {path}: {error}") from error
    nothing = pd.DataFrame(columns=["number", "reason", "message"])
    return _make(table, label_set, _OF_RUN, "All labelled images of the run, with and without findings.", nothing)


def _make(table: pa.Table, label_set: LabelSet, protocol: str, source: str, rejected: pd.DataFrame) -> ReportImages:
    images, splits = table.select(_COLUMNS).to_pandas(), table["split"].to_pandas()
    return ReportImages(images, labels_of(table, label_set), label_set, splits, protocol, source, rejected)


def _list_reasons(rejected: pd.DataFrame) -> str:
    """Return the reasons for rejected lines and their counts, the most frequent first."""
    reasons = rejected["reason"].value_counts()
    return ", ".join(f"{count(number)} {reason}" for reason, number in reasons.items())


def _describe(metadata: Metadata, rejected: pd.DataFrame) -> str:
    lines = len(metadata.lines)
    unreadable = sum(metadata.cell_errors.counts.values())
    cells = f" {count(unreadable)} cells cannot be read and are missing." if unreadable else ""
    if rejected.empty:
        return f"All {count(lines)} metadata lines are used; none was rejected.{cells}"
    reasons = _list_reasons(rejected)
    return f"Rejected, and not used below: {count(len(rejected))} of {count(lines)} metadata lines ({reasons}).{cells}"
