"""Labels and metadata to evaluate against. One unusable line of the metadata table rejects the whole file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import MetadataError, PredictionsError
from cxrfeat.io.schema import METADATA
from cxrfeat.labels.columns import load_column_map
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14
from cxrfeat.labels.matching import ImageMatcher
from cxrfeat.labels.metadata import read_metadata

LABEL_COLUMNS = ("findings", "findings_unknown", "findings_uncertain")
"""Columns from which a label set derives its labels."""

COLUMNS = ("image_index", "patient_id", "age_years", "sex", "view_position", *LABEL_COLUMNS)
"""Columns of the metadata that an evaluation uses."""

MAX_NAMED = 5
"""Maximum number of images named in an error message."""


@dataclass(frozen=True)
class GroundTruth:
    """Labels and metadata of N images.

    Attributes:
        table: one row per image, :data:`COLUMNS` with the types of :data:`cxrfeat.io.schema.METADATA`; ``image_index``
            is the path of the image if the metadata has paths.
        label_set: F labels to evaluate.
        lines: metadata lines of the rows, used to find images by name or path; None if names must match exactly.
        ages_unusable: number of ages set to null because they are unreadable or outside 0–123 years.
    """

    table: pa.Table
    label_set: LabelSet = NIH14
    lines: pa.Table | None = field(default=None, repr=False)
    ages_unusable: int = 0

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """(N, F) float32 labels of 0 and 1, NaN where unknown."""
        return labels_of(self.table, self.label_set)

    @cached_property
    def other_names(self) -> Mapping[str, int]:
        """Number of images by name, of the names among the findings that are not in the label set."""
        counts = Counter(pc.list_flatten(self.table["findings"]).to_pylist())
        return {name: count for name, count in counts.most_common() if not self.label_set.covers(name)}

    def find(self, images: Sequence[str], what: str) -> list[str]:
        """Return the ``image_index`` of each image.

        Args:
            images: names or paths, with or without suffix.
            what: description of the images in the error message, such as "predicted images".

        Raises:
            PredictionsError: an image without ground truth; the message gives names of both sides.
        """
        keys = self.table["image_index"].to_pylist()
        if self.lines is None:
            known = set(keys)
            found = [image if image in known else None for image in images]
        else:
            rows = ImageMatcher(self.lines, images).find_rows(images)
            found = [None if row is None else keys[row] for row in rows]
        missing = [image for image, key in zip(images, found, strict=True) if key is None]
        if missing:
            raise PredictionsError(
                f"{len(missing)} of {len(images)} {what} are not in the ground truth; "
                f"the first: {', '.join(missing[:MAX_NAMED])}; the ground truth has for example {keys[0]}"
            )
        return [key for key in found if key is not None]


def labels_of(table: pa.Table, label_set: LabelSet) -> NDArray[np.float32]:
    """Return the (N, F) float32 labels of N rows with :data:`LABEL_COLUMNS`: 0 and 1, NaN where unknown."""
    return label_set.targets(*(table[name] for name in LABEL_COLUMNS)).with_nan()


def read_ground_truth(path: Path, label_set: LabelSet = NIH14, columns: str | None = None) -> GroundTruth:
    """Read a metadata table of any known dialect, plain or gzipped.

    Args:
        path: CSV file.
        label_set: labels to evaluate.
        columns: TOML file with a column map; None recognises a known dialect by the header.

    Raises:
        ConfigError: a file does not exist.
        MetadataError: an unusable table, a rejected line, or no labels at all; the message gives the line number.
    """
    metadata = read_metadata([str(path)], load_column_map(columns) if columns else None)
    rejected = np.flatnonzero(pc.is_valid(metadata.lines["reason"]).to_numpy())  # (rejected lines,)
    if len(rejected):
        first = int(rejected[0])
        raise MetadataError(
            f"{path.name}: {len(rejected)} lines are unusable; the first is line {metadata.numbers[first]}: "
            f"{metadata.lines['message'][first]}"
        )
    unlabelled = metadata.lines["findings"].null_count
    if unlabelled == len(metadata.lines):
        raise MetadataError(
            f"{path.name} has no labels for any of its {unlabelled} images; expected labels to evaluate"
        )
    lines = metadata.lines
    keys = pc.coalesce(lines["image_path"], lines["image_index"])
    table = lines.set_column(lines.column_names.index("image_index"), "image_index", keys)
    ages = sum(count for (_, reason), count in metadata.cell_errors.counts.items() if reason.startswith("age-"))
    schema = pa.schema([METADATA.field(name) for name in COLUMNS])
    return GroundTruth(table.select(COLUMNS).cast(schema), label_set, lines, ages)
