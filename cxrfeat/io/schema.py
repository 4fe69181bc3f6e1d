"""The tables this project writes, as Arrow schemas: what each column holds, its type, and what a null means.

``OUT/embeddings`` is partitioned on disk by ``round`` and ``status``; every other column is in the files. Every field
is nullable, as Spark makes them when it reads: a file that was written anew has the schema of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import pyarrow as pa


class Status(StrEnum):
    """What became of one file (ok or quarantined) or of one line of metadata (ok or rejected)."""

    OK = "ok"
    QUARANTINED = "quarantined"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Why a file, or a row group of a drop, is in quarantine."""

    EMPTY = "empty"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_PNG_OR_JPEG = "not-png-or-jpeg"
    CORRUPT = "corrupt"
    TOO_SMALL = "too-small"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MODE = "unsupported-mode"
    COLOUR = "colour"
    NOT_PARQUET = "not-parquet"
    NO_ROWS = "no-rows"
    MISSING_COLUMN = "missing-column"
    WRONG_TYPE = "wrong-type"
    WRONG_LENGTH = "wrong-length"
    NOT_FINITE = "not-finite"
    OTHER_EXTRACTOR = "other-extractor"
    MIXED_EXTRACTORS = "mixed-extractors"
    QUARANTINED_BEFORE = "quarantined-before"


class Augmentation(StrEnum):
    """How the image was changed before it was embedded; all but ``none`` are for training only."""

    NONE = "none"
    HFLIP = "hflip"


class Split(StrEnum):
    """The part of the data an image belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


HANDLE = pa.schema([pa.field("uri", pa.string())])
"""What crosses the JVM on the way in: where a file is, never its bytes."""

EMBEDDED = pa.schema(
    [
        pa.field("image_index", pa.string()),  # file name: the key of the metadata
        pa.field("image_path", pa.string()),  # relative to the images root: the key of this table
        pa.field("status", pa.string()),
        pa.field("augmentation", pa.string()),
        pa.field("embedding", pa.list_(pa.field("element", pa.float32()))),  # null in quarantine
        pa.field("extractor", pa.string()),  # fingerprint
        pa.field("precision", pa.string()),  # fp32 or bf16; null in quarantine
        pa.field("pixel_format", pa.string()),  # as decoded: gray8, gray16, rgba8, …
        pa.field("reason", pa.string()),  # null unless in quarantine, like the next two
        pa.field("message", pa.string()),
        pa.field("sha256", pa.string()),
    ]
)
"""What a worker makes of a handle: one row an augmentation, or one row in quarantine."""

METADATA = pa.schema(
    [
        pa.field("image_index", pa.string()),
        pa.field("patient_id", pa.string()),
        pa.field("follow_up", pa.int32()),
        pa.field("age_years", pa.float32()),
        pa.field("sex", pa.string()),  # M, F or null
        pa.field("view_position", pa.string()),  # PA, AP, …
        pa.field("findings", pa.list_(pa.field("element", pa.string()))),  # [] = No Finding, null = unlabelled
        pa.field("split", pa.string()),
    ]
)
"""One row an image that the metadata file describes and that passed every check."""

METADATA_LINES = pa.schema(
    [
        *METADATA,
        pa.field("reason", pa.string()),  # null unless rejected, like the next
        pa.field("message", pa.string()),
        pa.field("line", pa.string()),  # as in the file
        pa.field("status", pa.string()),  # ok or rejected
    ]
)
"""``OUT/metadata``: every line of the metadata file, accepted or rejected."""

EMBEDDINGS = pa.schema(
    [
        *(EMBEDDED.field(name) for name in ("image_index", "image_path")),
        *(METADATA.field(name) for name in METADATA.names if name != "image_index"),
        *(EMBEDDED.field(name) for name in EMBEDDED.names if name not in ("image_index", "image_path", "status")),
        pa.field("round", pa.int32()),
        EMBEDDED.field("status"),
    ]
)
"""``OUT/embeddings``: what a worker made of each image, joined with its metadata."""


def grid_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema of ``RUN/grid.parquet``: one row per configuration, at its best epoch."""
    return pa.schema(
        [
            pa.field("index", pa.int32()),  # place in the grid, from 0
            pa.field("name", pa.string()),  # index and hash of the settings
            pa.field("hidden", pa.list_(pa.field("element", pa.int32()))),
            pa.field("dropout", pa.float64()),
            pa.field("lr", pa.float64()),
            pa.field("weight_decay", pa.float64()),
            pa.field("status", pa.string()),  # how the training ended
            pa.field("epochs", pa.int32()),
            pa.field("best_epoch", pa.int32()),  # null, like all below, where no epoch can be ranked
            pa.field("train_loss", pa.float64()),
            pa.field("val_loss", pa.float64()),
            pa.field("val_auroc", pa.float64()),  # mean over val_auroc_findings findings
            pa.field("val_auroc_findings", pa.int32()),
            pa.field("selected", pa.bool_()),
            *(pa.field(f"val_auroc_{finding}", pa.float64()) for finding in findings),  # null where a class is absent
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
        pa.field("val_auroc", pa.float64()),  # null unless monitored, like the next
        pa.field("val_f1", pa.float64()),
    ]
)
"""``RUN/history.parquet``: one row an epoch of each configuration."""

ROW_GROUP = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("row_group", pa.int32()),  # null: the file as a whole
        pa.field("rows", pa.int64()),  # null where the footer can't be read
        pa.field("reason", pa.string()),  # null unless it can't be trusted, like the next
        pa.field("message", pa.string()),
    ]
)
"""A row group of a drop on its way to be scored: where it is, never its numbers."""


def predictions_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema of ``PRED/predictions``: one row per row of a drop, or per quarantined row group or file."""
    return pa.schema(
        [
            pa.field("image_index", pa.string()),
            pa.field("patient_id", pa.string()),
            pa.field("augmentation", pa.string()),
            pa.field("drop_file", pa.string()),  # relative to the drops, or to the images: the key with row_group
            pa.field("row_group", pa.int32()),  # null for an image, and for a file in quarantine as a whole
            pa.field("extractor", pa.string()),
            pa.field("head", pa.string()),  # fingerprint
            *(pa.field(f"probability_{finding}", pa.float32()) for finding in findings),
            pa.field("any_finding", pa.float32()),  # a score: it ranks films
            pa.field("positives", pa.list_(pa.field("element", pa.string()))),  # findings at or above their thresholds
            pa.field("any_finding_positive", pa.bool_()),
            pa.field("imputed", pa.list_(pa.field("element", pa.string()))),  # inputs that were missing: age, sex
            pa.field("rows", pa.int64()),  # 1; in quarantine what the row stands for, null where nobody knows
            pa.field("reason", pa.string()),  # null unless in quarantine, like the next
            pa.field("message", pa.string()),
            pa.field("round", pa.int32()),
            pa.field("status", pa.string()),  # ok or quarantined
        ]
    )


def scored_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema that workers write: predictions without ``round``, which is the name of the folder."""
    return pa.schema([field for field in predictions_schema(findings) if field.name != "round"])


def head_predictions_schema(findings: Sequence[str]) -> pa.Schema:
    """Return the schema of ``RUN/predictions.parquet``: predictions of the chosen head on val and test."""
    return pa.schema(
        [
            *(METADATA.field(name) for name in ("image_index", "patient_id", "split", "findings")),
            *(pa.field(f"score_{finding}", pa.float32()) for finding in findings),  # sigmoid of the logit, as trained
            *(pa.field(f"probability_{finding}", pa.float32()) for finding in findings),  # calibrated on val
        ]
    )


METRICS = pa.schema(
    [
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),  # all, or a subgroup: sex=F, age=0-17, view=PA, …
        pa.field("model", pa.string()),  # predictions, or what they must beat: view, age+sex, untrained, …
        pa.field("scope", pa.string()),  # a finding, macro, micro, weighted, samples, any_finding
        pa.field("point", pa.string()),  # operating point; null where no threshold is involved
        pa.field("scale", pa.string()),  # prefix of the columns that were measured
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64()),  # null where it is not defined: note says why
        pa.field("low", pa.float64()),  # of the interval; null, like the next, where there is none
        pa.field("high", pa.float64()),
        pa.field("resamples", pa.int32()),  # that define the number
        pa.field("threshold", pa.float64()),
        pa.field("images", pa.int32()),
        pa.field("patients", pa.int32()),
        pa.field("positives", pa.int32()),
        pa.field("note", pa.string()),
    ]
)
"""``EVAL/metrics.parquet``: one row a number; :mod:`head_training.evaluation.measurement` says what the words mean."""

METRICS_FORMAT = 1
"""Of ``EVAL/metrics.json``, which holds the same rows and more."""

COHORT = pa.schema([field for field in METADATA if field.name != "follow_up"])
"""``RUN/cohort.parquet``: the metadata of every image of the run, training included, without the embeddings."""
