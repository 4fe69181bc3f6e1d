"""Where an evaluation's rows come from: a run of ours, or any predictions with a truth file and lists of names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrfeat.errors import ConfigError, PredictionsError
from cxrfeat.io.schema import COHORT, Split
from cxrfeat.labels.findings import FINDINGS, NO_FINDING, format_findings
from cxrfeat.labels.metadata import read_list
from cxrfeat.labels.splits import OFFICIAL_TEST_DIGEST, digest_names, split_by_hash
from head_training.evaluation.ground_truth import COLUMNS, GroundTruth, read_ground_truth
from head_training.evaluation.labelled_predictions import (
    NAMED,
    LabelledPredictions,
    PredictionTable,
    assign,
    join,
    read_predictions,
)


@dataclass(frozen=True)
class Sources:
    """What an evaluation is made from.

    Attributes:
        predictions_file, truth_file: where they were read.
        predictions: of all images in the file.
        truth: of these images and others.
        judged: the rows of val, if there are any, and of test.
        train: metadata of images whose patients are in neither: what the baselines may see.
        protocol: how images were divided, and how that is known.
        untrained: split → ranking of the head before training, as its run recorded it; empty without a run.
        head: fingerprint of the head that predicts, as its run recorded it; None without a run.
    """

    predictions_file: Path
    truth_file: Path
    predictions: PredictionTable
    truth: GroundTruth
    judged: Mapping[Split, LabelledPredictions]
    train: pa.Table
    protocol: Mapping[str, Any]
    untrained: Mapping[str, Any]
    head: str | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        """That are predicted."""
        return self.predictions.findings

    def describe(self) -> dict[str, Any]:
        """Return the parts ``predictions``, ``labels`` and ``protocol`` of ``metrics.json``."""
        evaluated = sum(len(rows.table) for rows in self.judged.values())
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
                "missing_findings": [finding for finding in FINDINGS if finding not in self.findings],
                "left_out": len(self.predictions.images) - evaluated,
            },
            "labels": {
                "file": self.truth_file.name,
                "sha256": _sha256(self.truth_file),
                "digest": _digest_labels(rows.table for rows in self.judged.values()),
                "ages_unusable": self.truth.ages_unusable,
                "counts": {
                    "images": len(self.truth.table),
                    "patients": len(self.truth.table["patient_id"].unique()),
                    **count_labels(self.truth.table),
                },
            },
            "protocol": dict(self.protocol),
        }


def open_run(run: Path, *, test_list: Path | None = None) -> Sources:
    """Read a run of :mod:`head_training.fit`: its predictions of val and test, and who was in it.

    Args:
        run: its folder.
        test_list: what its test split is checked against: without it, a test split that lacks a film of NIH's official
            list is not recognised.

    Raises:
        ConfigError: no run, or one of a version that did not write its cohort.
        PredictionsError: predictions that can't be used.
    """
    files = {name: run / name for name in ("predictions.parquet", "cohort.parquet", "config.json")}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{run} lacks {missing}: no run, or one of an older version; fit again, or give --predictions"
        )
    cohort = pq.read_table(files["cohort.parquet"]).cast(COHORT)
    predictions = read_predictions(files["predictions.parquet"])
    if predictions.split is None:
        raise PredictionsError(f"{files['predictions.parquet'].name} has no column split")
    config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    sizes = {split: pc.sum(pc.equal(cohort["split"], split.value)).as_py() for split in Split}
    listed = read_list(str(test_list)) if test_list else None
    if listed:
        sizes[Split.TEST] = len(listed)
    truth = GroundTruth(cohort.select(COLUMNS))
    judged = join(predictions, truth, predictions.split, sizes)
    return Sources(
        predictions_file=files["predictions.parquet"],
        truth_file=files["cohort.parquet"],
        predictions=predictions,
        truth=truth,
        judged=judged,
        train=cohort.filter(pc.equal(cohort["split"], Split.TRAIN.value)).select(COLUMNS),
        protocol=_protocol(cohort, listed, judged),
        untrained=config.get("untrained", {}),
        head=config.get("head"),
    )


def open_files(
    predictions_file: Path, truth_file: Path, *, test_list: Path | None, val_list: Path | None, prefix: str | None
) -> Sources:
    """Read any predictions, the truth, and which images are test and val.

    Args:
        predictions_file: see :func:`head_training.evaluation.labelled_predictions.read_predictions`.
        truth_file: see :func:`head_training.evaluation.ground_truth.read_ground_truth`.
        test_list: names of the test images; None: the predictions have a column ``split``.
        val_list: names of images to choose thresholds on.
        prefix: of the columns; None finds it.

    Raises:
        ConfigError: neither list nor column, or a list for val alone.
        PredictionsError, MetadataError: files that can't be used, or don't fit each other.
    """
    predictions, truth = read_predictions(predictions_file, prefix), read_ground_truth(truth_file)
    if test_list is None:
        if predictions.split is None or val_list is not None:
            raise ConfigError(
                f"which images are the test? {predictions_file.name} has no column split: give --split-list"
            )
        splits, sizes, lists = predictions.split, {}, None
    else:
        paths = {Split.TEST: test_list, **({Split.VAL: val_list} if val_list else {})}
        lists = {split: read_list(str(path)) for split, path in paths.items()}
        _check_known(lists, paths, truth)
        splits = assign(predictions.images, lists)
        sizes = {split: len(names) for split, names in lists.items()}
    judged = join(predictions, truth, splits, sizes)
    held_out = assign(truth.table["image_index"], lists) if lists else _splits_of(judged, truth)
    known = truth.table.append_column("split", held_out)
    away = known["patient_id"].filter(pc.is_valid(known["split"])).combine_chunks()
    train = truth.table.filter(pc.invert(pc.is_in(truth.table["patient_id"], away)))
    return Sources(
        predictions_file=predictions_file,
        truth_file=truth_file,
        predictions=predictions,
        truth=truth,
        judged=judged,
        train=train,
        protocol=_protocol(known.filter(pc.is_valid(known["split"])), lists[Split.TEST] if lists else None, judged),
        untrained={},
    )


def count_labels(table: pa.Table) -> dict[str, int]:
    """Return how many images have each finding, and none."""
    findings = table["findings"].combine_chunks()
    found = {row["values"]: row["counts"] for row in pc.value_counts(pc.list_flatten(findings)).to_pylist()}
    none = pc.sum(pc.equal(pc.list_value_length(findings), 0)).as_py()
    return {NO_FINDING: none or 0, **{finding: found.get(finding, 0) for finding in FINDINGS}}


def _splits_of(judged: Mapping[Split, LabelledPredictions], truth: GroundTruth) -> pa.Array:
    return assign(
        truth.table["image_index"], {split: rows.table["image_index"].to_pylist() for split, rows in judged.items()}
    )


def _check_known(lists: Mapping[Split, Sequence[str]], paths: Mapping[Split, Path], truth: GroundTruth) -> None:
    known = set(truth.table["image_index"].to_pylist())
    for split, names in lists.items():
        unknown = [name for name in names if name not in known]
        if unknown:
            raise PredictionsError(
                f"{len(unknown)} of {len(names)} images in {paths[split].name} are not in the truth; "
                f"the first: {unknown[:NAMED]}"
            )


def _protocol(
    known: pa.Table, test_list: Sequence[str] | None, judged: Mapping[Split, LabelledPredictions]
) -> dict[str, Any]:
    """Say how images were divided, from what can be checked: rows with image_index, patient_id and split."""
    pairs = set(zip(known["patient_id"].to_pylist(), known["split"].to_pylist(), strict=True))
    test = known["image_index"].filter(pc.equal(known["split"], Split.TEST.value)).to_pylist()
    patients = {split: {patient for patient, found in pairs if found == split.value} for split in Split}
    listed = set(test_list or test)
    others = known["image_index"].filter(pc.not_equal(known["split"], Split.TEST.value)).to_pylist()
    if digest_names(listed) == OFFICIAL_TEST_DIGEST and listed.issuperset(test) and listed.isdisjoint(others):
        measured = len(judged[Split.TEST].labels)
        name, why = "official list", f"the test images are {measured} of the {len(listed)} in NIH's test_list.txt"
    elif all(split_by_hash(patient) == split for patient, split in pairs):
        name, why = "patient hash", f"all {len(pairs)} patients are where the hash of cxrfeat.labels.splits puts them"
    else:
        name, why = (
            "unknown",
            "the test images are not those of NIH's test_list.txt, and patients don't follow the hash; where they are a "
            "part of that list, --split-list shows it",
        )
    return {"name": name, "why": why, "patients_in_both": len(patients[Split.VAL] & patients[Split.TEST])}


def _digest_labels(tables: Iterable[pa.Table]) -> str:
    """Return the SHA-256 of the sorted lines ``image<TAB>findings``: equal for equal labels, whatever the file."""
    lines = [
        f"{row['image_index']}\t{format_findings(row['findings'])}\n"
        for table in tables
        for row in table.select(["image_index", "findings"]).to_pylist()
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
