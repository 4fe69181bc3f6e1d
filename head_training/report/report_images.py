"""Images of a report, with their findings and splits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrfeat.errors import MetadataError
from cxrfeat.io.schema import COHORT
from cxrfeat.labels.findings import format_findings, parse_findings, to_multi_hot
from cxrfeat.labels.metadata import Metadata, assign_splits, read_metadata
from head_training.report.report_inputs import read_table
from head_training.report.style import count

_BY_LIST = "Official lists; one in eight patients of train_val is in val (validation), by a hash of the patient."
_BY_HASH = "By a hash of the patient: about 70 % of patients are in train, 10 % in val (validation) and 20 % in test."
_OF_RUN = "Splits of the run: train for training, val (validation) for selecting a configuration, test for evaluation."


@dataclass(frozen=True)
class ReportImages:
    """Images of a metadata file or of a run.

    Attributes:
        metadata: images and rejected lines.
        splits: train, val or test for each image.
        protocol: sentence on how the images were split.
        source: sentence on the origin of the images and on omitted lines.

    Raises MetadataError if no line is usable.
    """

    metadata: Metadata
    splits: pd.Series
    protocol: str
    source: str

    def __post_init__(self) -> None:
        """Reject metadata without a usable line."""
        if self.metadata.images.empty:
            reasons = _list_reasons(self.metadata) or "none"
            raise MetadataError(f"none of the {self.metadata.lines} metadata lines is usable; rejected: {reasons}")

    @property
    def images(self) -> pd.DataFrame:
        """One row per image, as in :class:`cxrfeat.labels.metadata.Metadata`."""
        return self.metadata.images

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """Mask (N,) of the images that have a label; No Finding is a label."""
        labelled: NDArray[np.bool_] = self.images["findings"].notna().to_numpy()
        return labelled

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """Labels (labelled images, 14) of 0 and 1."""
        codes, names = pd.factorize(self.images.loc[self.labelled, "findings"])
        labels: NDArray[np.float32] = to_multi_hot([parse_findings(name) for name in names])[codes]
        return labels


def read_report_images(metadata: str, train_val_list: str | None = None, test_list: str | None = None) -> ReportImages:
    """Read a metadata CSV and split its patients.

    Raises:
        ConfigError, MetadataError: as :func:`cxrfeat.labels.metadata.read_metadata` and ``assign_splits``.
    """
    content = read_metadata(metadata)
    splits = assign_splits(content.images, train_val_list, test_list)
    return ReportImages(content, splits, _BY_LIST if train_val_list else _BY_HASH, _describe(content))


def _list_reasons(metadata: Metadata) -> str:
    """Return the reasons for rejected lines and their counts, the most frequent first."""
    reasons = metadata.rejected["reason"].value_counts()
    return ", ".join(f"{count(number)} {reason}" for reason, number in reasons.items())


def _describe(metadata: Metadata) -> str:
    rejected = len(metadata.rejected)
    if not rejected:
        return f"All {count(metadata.lines)} metadata lines are used; none was rejected."
    reasons = _list_reasons(metadata)
    return f"Rejected, and not used below: {count(rejected)} of {count(metadata.lines)} metadata lines ({reasons})."


def read_cohort(path: Path) -> ReportImages:
    """Read the images of a run from its cohort.parquet.

    Raises:
        ReportError: the file is missing or unreadable.
    """
    table = read_table(path, COHORT)
    images = table.drop(columns="split").assign(findings=[format_findings(names) for names in table["findings"]])
    rejected = pd.DataFrame(columns=["number", "reason", "message", "line"])
    return ReportImages(
        Metadata(images, rejected, len(images)),
        table["split"],
        _OF_RUN,
        "All labelled images of the run, with and without findings.",
    )
