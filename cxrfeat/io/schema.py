"""Arrow schemas of all tables: columns, their types, and the meaning of null.

``OUT/embeddings`` is partitioned on disk by ``round`` and ``status``; the files hold all other columns. All fields are
nullable because Spark reads them so: a rewritten file keeps the schema of the original.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

import pyarrow as pa


class Status(StrEnum):
    """Status of a file (ok or quarantined) or of a metadata line (ok or rejected)."""

    OK = "ok"
    QUARANTINED = "quarantined"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Reason why a file, or a row group of a drop, is in quarantine."""

    EMPTY = "empty"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_PNG_OR_JPEG = "not-png-or-jpeg"
    UNSUPPORTED_FORMAT = "unsupported-format"
    CORRUPT = "corrupt"
    TOO_SMALL = "too-small"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MODE = "unsupported-mode"
    COLOUR = "colour"
    NO_IMAGE = "no-image"
    MULTI_FRAME = "multi-frame"
    NOT_A_CHEST_RADIOGRAPH = "not-a-chest-radiograph"
    LOW_RANGE = "low-range"
    BEYOND_BITS = "beyond-bits"
    NOT_PARQUET = "not-parquet"
    NO_ROWS = "no-rows"
    MISSING_COLUMN = "missing-column"
    WRONG_TYPE = "wrong-type"
    WRONG_LENGTH = "wrong-length"
    NOT_FINITE = "not-finite"
    OTHER_EXTRACTOR = "other-extractor"
    MIXED_EXTRACTORS = "mixed-extractors"
    DUPLICATE_COLUMN = "duplicate-column"
    NOT_UTF8 = "not-utf-8"
    UNKNOWN_STATUS = "unknown-status"
    UNSOUND = "unsound"
    QUARANTINED_BEFORE = "quarantined-before"
    TRUNCATED_ARCHIVE = "truncated-archive"
    CORRUPT_ARCHIVE = "corrupt-archive"
    NESTED_ARCHIVE = "nested-archive"
    DUPLICATE_MEMBER = "duplicate-member"
    ENCRYPTED = "encrypted"
    NO_IMAGE_FEATURE = "no-image-feature"


class Augmentation(StrEnum):
    """Augmentation of an image before it is embedded; all but ``none`` are used in training only.

    The affine views have numbered names, ``affine-1`` and so on: see :func:`is_augmentation`.
    """

    NONE = "none"
    HFLIP = "hflip"


AFFINE = "affine"
"""Prefix of the names of rotated, shifted and zoomed views."""

_AFFINE_VIEW = re.compile(rf"{AFFINE}-[1-9]\d*")


def is_augmentation(name: str | None) -> bool:
    """Return True if a value of the column ``augmentation`` is known; null is not."""
    return name is not None and (name in list(Augmentation) or _AFFINE_VIEW.fullmatch(name) is not None)


class Split(StrEnum):
    """Part of the data set that an image belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


HANDLE = pa.schema(
    [
        pa.field("path", pa.string()),  # of the file, relative to the root; see cxrfeat.io.file_names
        pa.field("member", pa.string()),  # name in the container; null for a file, and for a container read as a whole
        pa.field("offset", pa.int64()),  # place of the member in the container; null if the container has no index
        pa.field("length", pa.int64()),  # bytes of the member in the container, or of a container read as a whole
        pa.field("reason", pa.string()),  # why the item is quarantined unread; null for all others, like the next field
        pa.field("message", pa.string()),
    ]
)
"""Input of a worker: where an image is. Its bytes never pass through the JVM."""

HEADER = "header_"
"""Prefix of a worker's columns that stand in for metadata, where no table gives it."""

HEADER_FIELDS = {
    "patient_id": pa.string(),
    "age_years": pa.float32(),
    "sex": pa.string(),
    "view_position": pa.string(),
    "split": pa.string(),
}
"""Metadata that the header of an image can give, and its types."""

EMBEDDED = pa.schema(
    [
        pa.field("image_index", pa.string()),  # file name; joins with the metadata
        pa.field("image_path", pa.string()),  # relative to the root of the images; key of this table
        pa.field("status", pa.string()),
        pa.field("augmentation", pa.string()),  # none, hflip, affine-1, …
        pa.field("embedding", pa.list_(pa.field("element", pa.float32()))),  # null if quarantined
        pa.field("extractor", pa.string()),  # fingerprint
        pa.field("precision", pa.string()),  # fp32, bf16 or int8; null if quarantined
        pa.field("pixel_format", pa.string()),  # gray8, gray16, rgba8, monochrome1-12, …
        pa.field("modality", pa.string()),  # CR, DX, …; null unless DICOM, like the next fields
        pa.field("body_part", pa.string()),  # CHEST, another part, or OTHER
        pa.field("laterality", pa.string()),  # R, L, U or B
        pa.field("pixel_spacing", pa.list_(pa.field("element", pa.float32()))),  # of rows and columns in mm
        pa.field("series_id", pa.string()),  # keyed hash of the UID, like the next field
        pa.field("instance_id", pa.string()),
        pa.field("reason", pa.string()),  # null unless quarantined, like the next two fields
        pa.field("message", pa.string()),
        pa.field("sha256", pa.string()),
        *(pa.field(f"{HEADER}{name}", kind) for name, kind in HEADER_FIELDS.items()),
    ]
)
"""Output of a worker per handle: one row per augmentation, or one quarantined row."""

_NAMES = pa.list_(pa.field("element", pa.string()))

METADATA = pa.schema(
    [
        pa.field("image_index", pa.string()),  # file name, without suffix if the table has none
        pa.field("patient_id", pa.string()),
        pa.field("follow_up", pa.int32()),
        pa.field("age_years", pa.float32()),
        pa.field("sex", pa.string()),  # M, F or null
        pa.field("view_position", pa.string()),  # PA, AP, …
        pa.field("findings", _NAMES),  # positive labels as written; [] = none, null = unlabelled
        pa.field("findings_unknown", _NAMES),  # uncertain or not annotated; null if only positives are named
        pa.field("findings_uncertain", _NAMES),  # those of findings_unknown that the table marks as uncertain
        pa.field("split", pa.string()),
    ]
)
"""Metadata of one image whose line passed every check."""

METADATA_LINES = pa.schema(
    [
        *METADATA,
        pa.field("reason", pa.string()),  # null unless rejected, like the next field
        pa.field("message", pa.string()),
        pa.field("line", pa.string()),  # unchanged text of the line; of several lines where they describe one image
        pa.field("image_path", pa.string()),  # path of the image as the table has it; null if it has names alone
        pa.field("status", pa.string()),  # ok or rejected
    ]
)
"""``OUT/metadata``: every line of the metadata file, accepted or rejected."""

EMBEDDINGS = pa.schema(
    [
        *(EMBEDDED.field(name) for name in ("image_index", "image_path")),
        *(METADATA.field(name) for name in METADATA.names if name != "image_index"),
        pa.field("metadata_status", pa.string()),  # matched, no-line, ambiguous-name, rejected-line; null = no metadata
        *(
            field
            for field in EMBEDDED
            if field.name not in ("image_index", "image_path", "status") and not field.name.startswith(HEADER)
        ),
        pa.field("round", pa.int32()),
        EMBEDDED.field("status"),
    ]
)
"""``OUT/embeddings``: the output of the workers, joined with the metadata."""


def grid_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema of ``RUN/grid.parquet``: one row per configuration, with the values of its best epoch."""
    return pa.schema(
        [
            pa.field("index", pa.int32()),  # position in the grid, from 0
            pa.field("name", pa.string()),  # index and hash of the settings
            pa.field("hidden", pa.list_(pa.field("element", pa.int32()))),
            pa.field("dropout", pa.float64()),
            pa.field("lr", pa.float64()),
            pa.field("weight_decay", pa.float64()),
            pa.field("status", pa.string()),  # outcome of the training
            pa.field("epochs", pa.int32()),
            pa.field("best_epoch", pa.int32()),  # null, like all fields below, if no epoch can be ranked
            pa.field("train_loss", pa.float64()),
            pa.field("val_loss", pa.float64()),
            pa.field("val_auroc", pa.float64()),  # mean over val_auroc_findings findings
            pa.field("val_auroc_findings", pa.int32()),
            pa.field("selected", pa.bool_()),
            *(pa.field(f"val_auroc_{finding}", pa.float64()) for finding in findings),  # null if a class is absent
        ]
    )


HISTORY = pa.schema(
    [
        pa.field("index", pa.int32()),
        pa.field("name", pa.string()),
        pa.field("epoch", pa.int32()),  # from 1
        pa.field("lr", pa.float64()),
        pa.field("train_loss", pa.float64()),
        pa.field("val_loss", pa.float64()),
        pa.field("val_auroc", pa.float64()),  # null unless monitored, like the next field
        pa.field("val_f1", pa.float64()),
    ]
)
"""``RUN/history.parquet``: one row per epoch and configuration."""

ROW_GROUP = pa.schema(
    [
        pa.field("path", pa.string()),  # of the drop, relative to the root
        pa.field("row_group", pa.int32()),  # the first of them; null stands for the whole file
        pa.field("groups", pa.int32()),  # number of neighbouring row groups that are scored together
        pa.field("rows", pa.int64()),  # of all of them; null if the footer is unreadable
        pa.field("reason", pa.string()),  # null unless quarantined, like the next field
        pa.field("message", pa.string()),
    ]
)
"""Input of a scoring worker: location of row groups in a drop, without their data."""


def predictions_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema of ``PRED/predictions``: one row per row of a drop, or per quarantined row group or file."""
    return pa.schema(
        [
            pa.field("image_index", pa.string()),
            pa.field("patient_id", pa.string()),
            pa.field("augmentation", pa.string()),
            pa.field("drop_file", pa.string()),  # relative to the root of drops or images; key, with row_group
            pa.field("row_group", pa.int32()),  # null for an image or a quarantined file
            pa.field("extractor", pa.string()),
            pa.field("head", pa.string()),  # fingerprint
            *(pa.field(f"probability_{finding}", pa.float32()) for finding in findings),
            pa.field("any_finding", pa.float32()),  # a score for ranking, not a probability
            pa.field("positives", pa.list_(pa.field("element", pa.string()))),  # findings at or above their thresholds
            pa.field("any_finding_positive", pa.bool_()),
            pa.field("imputed", pa.list_(pa.field("element", pa.string()))),  # names of imputed inputs: age, sex
            pa.field("rows", pa.int64()),  # 1, or the number of quarantined rows; null if unknown
            pa.field("reason", pa.string()),  # null unless quarantined, like the next field
            pa.field("message", pa.string()),
            pa.field("round", pa.int32()),
            pa.field("status", pa.string()),  # ok or quarantined
        ]
    )


def scored_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema that workers write: predictions without ``round``, which is in the folder name."""
    return pa.schema([field for field in predictions_schema(findings) if field.name != "round"])


def head_predictions_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema of ``RUN/predictions.parquet``: predictions of the selected head on val and test."""
    return pa.schema(
        [
            *(METADATA.field(name) for name in ("image_index", "patient_id", "split", "findings")),
            *(METADATA.field(name) for name in ("findings_unknown", "findings_uncertain")),
            *(pa.field(f"score_{finding}", pa.float32()) for finding in findings),  # sigmoid of the uncalibrated logit
            *(pa.field(f"probability_{finding}", pa.float32()) for finding in findings),  # calibrated on val
        ]
    )


METRICS = pa.schema(
    [
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),  # all, or a subgroup: sex=F, age=0-17, view=PA, …
        pa.field("model", pa.string()),  # predictions, or a baseline: view, age+sex, untrained, …
        pa.field("scope", pa.string()),  # a finding, macro, micro, weighted, samples, any_finding
        pa.field("point", pa.string()),  # operating point; null if the metric needs no threshold
        pa.field("scale", pa.string()),  # prefix of the evaluated columns
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64()),  # null if undefined; note gives the reason
        pa.field("low", pa.float64()),  # lower bound of the interval; null, like high, without an interval
        pa.field("high", pa.float64()),
        pa.field("resamples", pa.int32()),  # number of resamples with a defined value
        pa.field("threshold", pa.float64()),
        pa.field("images", pa.int32()),
        pa.field("patients", pa.int32()),
        pa.field("positives", pa.int32()),
        pa.field("note", pa.string()),
    ]
)
"""``EVAL/metrics.parquet``: one row per value; :mod:`head_training.evaluation.measurement` defines the terms."""

METRICS_FORMAT = 1
"""Format version of ``EVAL/metrics.json``, which holds the same rows and more."""

COHORT = pa.schema([field for field in METADATA if field.name != "follow_up"])
"""``RUN/cohort.parquet``: metadata of every image of the run, including the training images, without embeddings."""
