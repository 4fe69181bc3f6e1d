"""Metadata of a job's images: read, checked, split and ready to be joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from cxrfeat.io.schema import Split
from cxrfeat.labels.columns import ColumnMap, load_column_map
from cxrfeat.labels.matching import ImageMatcher
from cxrfeat.labels.metadata import Metadata, parse_records, read_metadata
from cxrfeat.labels.official_lists import OfficialLists, read_lists
from cxrfeat.labels.splits import SplitRule, assign_splits
from cxrfeat.labels.table_text import Records


@dataclass(frozen=True)
class ImageMetadata:
    """Metadata of the images of one job.

    Attributes:
        metadata: the table, with the split of every accepted line.
        matcher: matcher of image paths with its lines.
        messages: sentences for the log: the dialect, the lists, cells that cannot be read.
    """

    metadata: Metadata
    matcher: ImageMatcher
    messages: Sequence[str]

    def list_outside_training(self, images: Sequence[str]) -> frozenset[str]:
        """Return the paths of the images that are not in the train split, unmatched ones included."""
        known = self.matcher.match(images)
        in_training = known.filter(pc.equal(known["split"], Split.TRAIN.value))["image_path"].to_pylist()
        return frozenset(images) - frozenset(in_training)


def load_image_metadata(
    locations: Sequence[str],
    images: Sequence[str],
    *,
    columns: str | None = None,
    records: tuple[Records, ColumnMap] | None = None,
    rule: SplitRule | None = None,
    max_unmatched: float = 1.0,
) -> ImageMetadata:
    """Read the metadata of images, assign the splits, and check the official lists.

    Args:
        locations: one table, or several that are joined.
        images: paths of all images, relative to the images root.
        columns: TOML file with a column map; None recognises a known dialect.
        records: records and their column map to use instead of tables; None reads the tables.
        rule: rule that assigns the splits; None: by the table's own column or a hash of the patient.
        max_unmatched: largest share of images that may be in neither list, 0 to 1.

    Raises:
        ConfigError: a file does not exist, or the lists do not belong to the images.
        MetadataError: a table or list is unusable, or a patient has images in both lists.
    """
    rule = rule or SplitRule()
    lists: OfficialLists | None = None
    if rule.train_val_list is not None and rule.test_list is not None:
        lists = read_lists(rule.train_val_list, rule.test_list)
    if records is not None:
        metadata = parse_records(*records, records[0].location)
    else:
        metadata = read_metadata(locations, load_column_map(columns) if columns else None)
    messages = [f"metadata columns: {metadata.column_map.name}"]
    if lists is not None:
        messages += lists.check(images, metadata.lines, max_unmatched)
    place = metadata.lines.column_names.index("split")
    splits = assign_splits(metadata.lines, rule, lists)
    placeholders: tuple[str, ...] = ()
    if not metadata.has_patients:
        own_splits = lists is not None or metadata.lines["split"].null_count < len(metadata.lines)
        placeholders = ("patient_id",) if own_splits else ("patient_id", "split")
    metadata = replace(metadata, lines=metadata.lines.set_column(place, "split", splits))
    if not metadata.has_patients:
        messages.append("warning: the metadata names no patients; every image counts as a patient of its own")
    matcher = ImageMatcher(metadata.lines, images, placeholders)
    messages += [matcher.describe(), *(f"warning: {text}" for text in metadata.cell_errors.describe())]
    return ImageMetadata(metadata, matcher, messages)
