"""The images that a report is about, with their findings and their split."""

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

_BY_LIST = "Official lists; of the patients in train_val one in eight is val, by a hash of the patient."
_BY_HASH = "By a hash of the patient: about 70, 10 and 20 % of patients."
_OF_RUN = "As the run was trained, chosen and tested."


@dataclass(frozen=True)
class ReportImages:
    """The images of a metadata file or of a run.

    Attributes:
        metadata: what was read.
        splits: train, val or test of each image.
        protocol: how they were divided, in words.
        source: where they come from and what was left out, in words.

    Raises MetadataError where no line can be used.
    """

    metadata: Metadata
    splits: pd.Series
    protocol: str
    source: str

    def __post_init__(self) -> None:
        """Refuse a file that says nothing."""
        if self.metadata.images.empty:
            reasons = self.metadata.rejected["reason"].value_counts().to_dict()
            raise MetadataError(f"none of {self.metadata.lines} lines of metadata can be used; rejected: {reasons}")

    @property
    def images(self) -> pd.DataFrame:
        """One row an image, as in :class:`cxrfeat.labels.metadata.Metadata`."""
        return self.metadata.images

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,): whether an image has a label; No Finding is one."""
        labelled: NDArray[np.bool_] = self.images["findings"].notna().to_numpy()
        return labelled

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """(labelled images, 14) of 0 and 1."""
        codes, names = pd.factorize(self.images.loc[self.labelled, "findings"])
        labels: NDArray[np.float32] = to_multi_hot([parse_findings(name) for name in names])[codes]
        return labels


def read_report_images(metadata: str, train_val_list: str | None = None, test_list: str | None = None) -> ReportImages:
    """Read a metadata CSV and divide its patients.

    Raises:
        ConfigError, MetadataError: as :func:`cxrfeat.labels.metadata.read_metadata` and ``assign_splits``.
    """
    found = read_metadata(metadata)
    splits = assign_splits(found.images, train_val_list, test_list)
    return ReportImages(found, splits, _BY_LIST if train_val_list else _BY_HASH, _describe(found))


def _describe(metadata: Metadata) -> str:
    reasons = metadata.rejected["reason"].value_counts()
    if reasons.empty:
        return f"All {count(metadata.lines)} lines of the metadata are used; none was rejected."
    listed = ", ".join(f"{count(number)} {reason}" for reason, number in reasons.items())
    return (
        f"{count(len(metadata.rejected))} of {count(metadata.lines)} lines of the metadata are rejected and in nothing "
        f"below: {listed}."
    )


def read_cohort(path: Path) -> ReportImages:
    """Read the images of a run.

    Raises:
        ReportError: the file is missing or damaged.
    """
    table = read_table(path, COHORT)
    images = table.drop(columns="split").assign(findings=[format_findings(names) for names in table["findings"]])
    rejected = pd.DataFrame(columns=["number", "reason", "message", "line"])
    return ReportImages(
        Metadata(images, rejected, len(images)),
        table["split"],
        _OF_RUN,
        "The labelled films of the run, with and without findings.",
    )
