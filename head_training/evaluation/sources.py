"""Inputs of an evaluation: a training run, or any predictions with ground truth and split lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrfeat.errors import ConfigError, PredictionsError
from cxrfeat.io.schema import COHORT, Split
from cxrfeat.labels.findings import NO_FINDING
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14, label_set_of_head
from cxrfeat.labels.official_lists import read_list
from cxrfeat.labels.splits import OFFICIAL_TEST_DIGEST, digest_names, split_by_hash
from head_training.evaluation.ground_truth import COLUMNS, GroundTruth, labels_of, read_ground_truth
from head_training.evaluation.labelled_predictions import (
    LabelledPredictions,
    PredictionTable,
    join_ground_truth,
    read_predictions,
    splits_from_lists,
)
from head_training.evaluation.ranking import any_label


@dataclass(frozen=True)
class Sources:
    """Inputs of an evaluation.

    Attributes:
        predictions_file, labels_file: files that were read.
        predictions: predictions of all images in the predictions file.
        ground_truth: labels and metadata of these images and possibly others.
        labelled: labelled predictions of test, and of val if the predictions include it.
        train: metadata of images whose patients are in neither val nor test, used to fit the baselines.
        protocol: split protocol, the evidence for it, and the number of patients in both val and test.
        untrained: by split, the AUROCs of the head before training that its run recorded; empty without a run.
        head: fingerprint of the head that its run recorded; None without a run.
    """

    predictions_file: Path
    labels_file: Path
    predictions: PredictionTable
    ground_truth: GroundTruth
    labelled: Mapping[Split, LabelledPredictions]
    train: pa.Table
    protocol: Mapping[str, Any]
    untrained: Mapping[str, Any]
    head: str | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        """Predicted labels."""
        return self.predictions.findings

    @property
    def label_set(self) -> LabelSet:
        """Labels of the evaluation."""
        return self.ground_truth.label_set

    def describe(self) -> dict[str, Any]:
        """Return the parts ``predictions``, ``labels`` and ``protocol`` of ``metrics.json``."""
        evaluated = sum(len(rows.table) for rows in self.labelled.values())
        scales = list(self.predictions.scales)
        return {
            "predictions": {
                "file": self.predictions_file.name,
                "head": self.head,
                "sha256": _sha256(self.predictions_file),
                "rows": len(self.predictions.images),
                "scales": scales,
                "scale": scales[0],
                "findings": list(self.findings),
                "missing_findings": [label for label in self.label_set.outputs if label not in self.findings],
                "hard_labels": self.predictions.hard_labels,
                "left_out": len(self.predictions.images) - evaluated,
            },
            "labels": {
                "file": self.labels_file.name,
                "sha256": _sha256(self.labels_file),
                "digest": _digest_labels((rows.table for rows in self.labelled.values()), self.label_set),
                "set": self.label_set.describe(),
                "other_names": dict(self.ground_truth.other_names),
                "ages_unusable": self.ground_truth.ages_unusable,
                "counts": {
                    "images": len(self.ground_truth.table),
                    "patients": len(self.ground_truth.table["patient_id"].unique()),
                    **count_labels(self.ground_truth.table, self.label_set),
                },
            },
            "protocol": dict(self.protocol),
        }


def open_run(run: Path, *, test_list: Path | None = None) -> Sources:
    """Read a run of :mod:`head_training.fit`: its predictions of val and test, and its cohort.

    Args:
        run: folder of the run.
        test_list: list to check the test split against. Without it, a test split that lacks an image of NIH's official
            list is not recognised as official.

    Raises:
        ConfigError: the folder is not a complete run, or the run is of a version that wrote no cohort.
        PredictionsError: unusable predictions.
    """
    files = {name: run / name for name in ("predictions.parquet", "cohort.parquet", "config.json")}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{run} lacks {', '.join(missing)}; expected a run of the current version. "
            "Train again, or evaluate a file with --predictions"
        )
    cohort = read_cohort_table(files["cohort.parquet"])
    label_set = _read_label_set(run / "head" / "bundle.json")
    predictions = read_predictions(files["predictions.parquet"], label_set)
    if predictions.split is None:
        raise PredictionsError(f"{files['predictions.parquet'].name} has no column split")
    config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    sizes = {split: pc.sum(pc.equal(cohort["split"], split.value)).as_py() for split in Split}
    test_names = read_list(str(test_list)) if test_list else None
    if test_names:
        sizes[Split.TEST] = len(test_names)
    ground_truth = GroundTruth(cohort.select(COLUMNS), label_set)
    labelled = join_ground_truth(predictions, ground_truth, predictions.split, sizes)
    return Sources(
        predictions_file=files["predictions.parquet"],
        labels_file=files["cohort.parquet"],
        predictions=predictions,
        ground_truth=ground_truth,
        labelled=labelled,
        train=cohort.filter(pc.equal(cohort["split"], Split.TRAIN.value)).select(COLUMNS),
        protocol=_identify_protocol(cohort, test_names, labelled),
        untrained=config.get("untrained", {}),
        head=config.get("head"),
    )


def _read_label_set(bundle: Path) -> LabelSet:
    """Return the label set of a run's head from its JSON, because loading the bundle would import torch."""
    if not bundle.is_file():
        return NIH14
    return label_set_of_head(json.loads(bundle.read_text(encoding="utf-8")), str(bundle))


def open_files(
    predictions_file: Path,
    labels_file: Path,
    *,
    test_list: Path | None,
    val_list: Path | None,
    prefix: str | None,
    label_set: LabelSet = NIH14,
    columns: str | None = None,
) -> Sources:
    """Read any predictions, their ground truth, and the lists of test and val images.

    Args:
        predictions_file: see :func:`head_training.evaluation.labelled_predictions.read_predictions`.
        labels_file: see :func:`head_training.evaluation.ground_truth.read_ground_truth`.
        test_list: names of the test images; None uses the column ``split`` of the predictions, and without that, all
            images are the test set.
        val_list: names of the images to choose thresholds on.
        prefix: prefix of the prediction columns; None chooses one.
        label_set: labels to evaluate.
        columns: TOML file with the column map of the labels file; None recognises a known dialect.

    Raises:
        ConfigError: a val list without a test list.
        PredictionsError: unusable predictions, or an image without ground truth.
        MetadataError: unusable ground truth.
    """
    predictions = read_predictions(predictions_file, label_set, prefix)
    ground_truth = read_ground_truth(labels_file, label_set, columns)
    keys = ground_truth.find(predictions.images.to_pylist(), "predicted images")
    predictions = replace(predictions, images=pa.array(keys))
    if test_list is None:
        if val_list is not None:
            raise ConfigError("--val-list without --split-list; give both")
        everything = pa.repeat(pa.scalar(Split.TEST.value), len(predictions.images))
        splits, sizes, lists = everything if predictions.split is None else predictions.split, {}, None
    else:
        paths = {Split.TEST: test_list, **({Split.VAL: val_list} if val_list else {})}
        lists = {
            split: ground_truth.find(read_list(str(path)), f"images in {path.name}") for split, path in paths.items()
        }
        splits = splits_from_lists(predictions.images, lists)
        sizes = {split: len(names) for split, names in lists.items()}
    labelled = join_ground_truth(predictions, ground_truth, splits, sizes)
    held_out_lists = lists or {split: rows.table["image_index"].to_pylist() for split, rows in labelled.items()}
    held_out = splits_from_lists(ground_truth.table["image_index"], held_out_lists)  # null for other images
    with_split = ground_truth.table.append_column("split", held_out)
    with_split = with_split.filter(pc.is_valid(with_split["split"]))
    held_out_patients = with_split["patient_id"].combine_chunks()
    return Sources(
        predictions_file=predictions_file,
        labels_file=labels_file,
        predictions=predictions,
        ground_truth=ground_truth,
        labelled=labelled,
        train=ground_truth.table.filter(pc.invert(pc.is_in(ground_truth.table["patient_id"], held_out_patients))),
        protocol=_identify_protocol(with_split, lists[Split.TEST] if lists else None, labelled),
        untrained={},
    )


def count_labels(table: pa.Table, label_set: LabelSet) -> dict[str, int]:
    """Return the number of images with each label, and of images without any finding as ``No Finding``."""
    labels = labels_of(table, label_set)  # (N, F)
    none = int((any_label(labels[:, : label_set.findings_count]) == 0).sum())
    positives = np.nansum(labels, axis=0).astype(int).tolist()  # F numbers
    return {NO_FINDING: none, **dict(zip(label_set.outputs, positives, strict=True))}


def read_cohort_table(path: Path) -> pa.Table:
    """Read ``RUN/cohort.parquet`` with the schema :data:`cxrfeat.io.schema.COHORT`; missing columns become null."""
    table = pq.read_table(path)
    for field in COHORT:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(len(table), field.type))
    return table.select(COHORT.names).cast(COHORT)


def _identify_protocol(
    images: pa.Table, test_list: Sequence[str] | None, labelled: Mapping[Split, LabelledPredictions]
) -> dict[str, Any]:
    """Return the split protocol as far as names and patients prove it.

    Args:
        images: one row per image, with image_index, patient_id and split.
        test_list: names of the test images, with or without predictions; None uses the test rows of ``images``.
        labelled: the evaluated predictions.

    Returns:
        Entry ``protocol`` of metrics.json.
    """
    pairs = set(zip(images["patient_id"].to_pylist(), images["split"].to_pylist(), strict=True))
    test = images["image_index"].filter(pc.equal(images["split"], Split.TEST.value)).to_pylist()
    others = images["image_index"].filter(pc.not_equal(images["split"], Split.TEST.value)).to_pylist()
    patients = {split: {patient for patient, found in pairs if found == split.value} for split in Split}
    listed = set(test_list or test)
    if digest_names(listed) == OFFICIAL_TEST_DIGEST and listed.issuperset(test) and listed.isdisjoint(others):
        evaluated = len(labelled[Split.TEST].labels)
        name, why = "official list", f"the test images are {evaluated} of the {len(listed)} in NIH's test_list.txt"
    elif all(split_by_hash(patient) == split for patient, split in pairs):
        name, why = "patient hash", f"the split of all {len(pairs)} patients matches the hash in cxrfeat.labels.splits"
    else:
        name, why = (
            "unknown",
            "the test images are not NIH's test_list.txt, and the patients are not divided by the hash; "
            "if the test images are a part of that list, give the list with --split-list",
        )
    return {"name": name, "why": why, "patients_in_both": len(patients[Split.VAL] & patients[Split.TEST])}


def _digest_labels(tables: Iterable[pa.Table], label_set: LabelSet) -> str:
    """Return the SHA-256 of the sorted lines ``image<TAB>labels``, so that equal labels in any file have equal digests.

    The labels of an image are joined by ``|``: first the positive ones, then the unknown ones with ``?`` in front. An
    image without either has ``No Finding``.
    """
    lines = []
    for table in tables:
        names = table["image_index"].to_pylist()
        for name, row in zip(names, labels_of(table, label_set), strict=True):
            positive = [label for label, value in zip(label_set.outputs, row, strict=True) if value == 1]
            unknown = [f"?{label}" for label, value in zip(label_set.outputs, row, strict=True) if np.isnan(value)]
            lines.append(f"{name}\t{'|'.join([*positive, *unknown]) or NO_FINDING}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
