"""Tests of the sources: splits, labels, and the evidence for the split protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrfeat.errors import ConfigError, PredictionsError
from cxrfeat.io.schema import Split
from cxrfeat.labels.splits import OFFICIAL_TEST_DIGEST, digest_names, split_by_hash
from head_training.evaluation import sources
from head_training.evaluation.sources import Sources, open_files, open_run
from tests.head_training.evaluations import Case
from tests.head_training.runs import FAST, fit


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def open_case(case: Case, **changes: Path | None) -> Sources:
    given = {"test_list": case.test_list, "val_list": case.val_list, **changes}
    return open_files(
        case.predictions, case.ground_truth, prefix=None, test_list=given["test_list"], val_list=given["val_list"]
    )


def test_lists_determine_test_val_and_training(case: Case) -> None:
    """Patients of neither list are what the baselines may see; predictions of them are left out."""
    case.predictions = case.write_predictions(case.table().slice(30))
    found = open_case(case, val_list=case.write_list("val.txt", range(90, 99)))
    assert {split: len(rows.table) for split, rows in found.labelled.items()} == {Split.TEST: 60, Split.VAL: 9}
    assert found.labelled[Split.TEST].without_prediction == 30
    assert set(found.train["patient_id"].to_pylist()) == set(map(str, range(33, 60)))
    assert found.describe()["predictions"]["left_out"] == 90 - 69


def test_a_column_split_will_do(case: Case) -> None:
    """Without lists the predictions say which split they are of; other splits are left out."""
    splits = ["test"] * 60 + ["val"] * 30 + ["train"] * 30
    case.predictions = case.write_predictions(case.table().append_column("split", pa.array(splits)))
    found = open_case(case, test_list=None, val_list=None)
    assert {split: len(rows.table) for split, rows in found.labelled.items()} == {Split.TEST: 60, Split.VAL: 30}
    assert set(found.train["patient_id"].to_pylist()) == set(map(str, range(30, 60)))
    assert found.describe()["predictions"]["left_out"] == 30


def test_without_list_or_column_everything_is_tested(case: Case) -> None:
    """All images are the test set; a list of val images alone is an error."""
    found = open_case(case, test_list=None, val_list=None)
    assert {split: len(rows.table) for split, rows in found.labelled.items()} == {Split.TEST: 120}
    with pytest.raises(ConfigError, match="--val-list without --split-list"):
        open_case(case, test_list=None)


def test_listed_images_without_ground_truth_are_refused(case: Case) -> None:
    """A list of another data set is an error, with the first names."""
    path = case.folder / "other.txt"
    path.write_text("000.png\nx.png\n")
    with pytest.raises(
        PredictionsError, match=r"1 of 2 images in other\.txt are not in the ground truth; the first: x\.png"
    ):
        open_case(case, test_list=path)


def test_the_label_version_is_described(case: Case) -> None:
    """Name, sha256 and counts of the file; a digest that follows the labels, not the order of lines."""
    found = open_case(case).describe()["labels"]
    assert found["file"] == "truth.csv"
    assert found["sha256"] == hashlib.sha256(case.ground_truth.read_bytes()).hexdigest()
    assert (found["counts"]["images"], found["counts"]["patients"]) == (180, 60)
    assert found["counts"]["No Finding"] == (~case.labels.any(axis=1)).sum()
    assert found["counts"]["Hernia"] == case.labels[:, 13].sum()
    header, *lines = case.ground_truth.read_text().splitlines(keepends=True)
    case.ground_truth.write_text(header + "".join(lines[::-1]))
    assert open_case(case).describe()["labels"]["digest"] == found["digest"]
    case.labels[0, 0] ^= True
    case.write_ground_truth()
    assert open_case(case).describe()["labels"]["digest"] != found["digest"]


def test_the_official_list_is_known_by_its_names(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a digest of the whole list, even if images lack a prediction; not if val has some of its images."""
    assert open_case(case).protocol["name"] == "unknown"
    monkeypatch.setattr(sources, "OFFICIAL_TEST_DIGEST", digest_names(case.images[:90]))
    case.predictions = case.write_predictions(case.table().slice(30))
    found = open_case(case).protocol
    assert (found["name"], found["why"]) == ("official list", "the test images are 60 of the 90 in NIH's test_list.txt")
    splits = pa.array(["test"] * 60 + ["val"] * 30)
    case.predictions = case.write_predictions(case.table().slice(30).append_column("split", splits))
    assert open_case(case, test_list=None, val_list=None).protocol["name"] == "unknown"


@pytest.mark.shared
def test_the_digest_is_that_of_the_real_list(shared: Path) -> None:
    """The 25,596 names that NIH publishes."""
    assert digest_names((shared / "nih" / "test_list.txt").read_text().split()) == OFFICIAL_TEST_DIGEST


def test_the_patient_hash_is_known_by_its_patients(case: Case) -> None:
    """Every patient where the hash puts them; one elsewhere, and the protocol is unknown."""
    splits = [split_by_hash(str(patient)).value for patient in case.patients[:120]]
    path = case.predictions
    for changed, name in ((splits, "patient hash"), (["val" if s == "test" else "test" for s in splits], "unknown")):
        case.predictions = case.write_predictions(case.table().append_column("split", pa.array(changed)), path.name)
        assert open_case(case, test_list=None, val_list=None).protocol["name"] == name


def test_patients_in_both_splits_are_counted(case: Case) -> None:
    """A leak between val and test is reported with every result."""
    assert open_case(case).protocol["patients_in_both"] == 0
    found = open_case(
        case, val_list=case.write_list("val.txt", range(90, 100)), test_list=case.write_list("t", range(91)[1:90])
    )
    assert found.protocol["patients_in_both"] == 0
    leaking = open_case(
        case, test_list=case.write_list("t", range(1, 89)), val_list=case.write_list("v", range(89, 120))
    )
    assert leaking.protocol["patients_in_both"] == 1


def test_a_run_has_its_own_ground_truth(features: Path, tmp_path: Path) -> None:
    """Labels and metadata of its cohort, its training rows, and how its head ranked before training."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    found = open_run(tmp_path / "run")
    assert {split: len(rows.table) for split, rows in found.labelled.items()} == {Split.VAL: 40, Split.TEST: 80}
    assert len(found.train) == 280
    assert set(found.untrained) == {"val", "test"}
    cohort = pq.read_table(tmp_path / "run" / "cohort.parquet")
    expected = {row["image_index"]: row["findings"] for row in cohort.to_pylist()}
    rows = found.labelled[Split.TEST].table.to_pylist()
    assert [row["findings"] for row in rows] == [expected[row["image_index"]] for row in rows]


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    """With the files that it lacks."""
    with pytest.raises(ConfigError, match=r"lacks predictions\.parquet, cohort\.parquet, config\.json"):
        open_run(tmp_path)


def test_a_run_is_checked_against_the_list(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that lacks images of the official test is recognised with the list, and the missing ones are counted."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    cohort = pq.read_table(tmp_path / "run" / "cohort.parquet").to_pylist()
    names = [row["image_index"] for row in cohort if row["split"] == "test"] + ["gone.png"]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(names))
    monkeypatch.setattr(sources, "OFFICIAL_TEST_DIGEST", digest_names(names))
    assert open_run(tmp_path / "run").protocol["name"] == "unknown"
    found = open_run(tmp_path / "run", test_list=path)
    assert found.protocol["why"] == "the test images are 80 of the 81 in NIH's test_list.txt"
    assert found.labelled[Split.TEST].without_prediction == 1
