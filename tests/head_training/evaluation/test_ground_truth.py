"""Tests of the ground truth: every line is read as by the extraction, or the file is rejected."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cxrfeat.errors import ConfigError, MetadataError, PredictionsError
from cxrfeat.labels.label_sets import LABEL_SETS
from head_training.evaluation.ground_truth import read_ground_truth

V2020 = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
GOOD = "good.png,Edema,0,1,3,F,PA\n"
V2017 = V2020.replace("Gender", "Sex").replace("Position\n", "Position,OriginalImage[Width,Height],\n")


def write(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text)
    return path


def test_both_headers_load_plain_and_zipped(tmp_path: Path) -> None:
    """The same row, whatever the header and the compression."""
    expected = {
        "image_index": "a.png", "patient_id": "007", "age_years": 58.0, "sex": "M", "view_position": "PA",
        "findings": ["Mass", "Hernia"], "findings_unknown": None, "findings_uncertain": None,
    }  # fmt: skip
    plain = write(tmp_path, V2020 + "a.png, Hernia|Mass,0,007,58,m,PA\n")
    assert read_ground_truth(plain).table.to_pylist() == [expected]
    zipped = tmp_path / "old.csv.gz"
    zipped.write_bytes(gzip.compress((V2017 + "a.png,Hernia|Mass,0,007,058Y,M,PA,2682,2749,\n").encode()))
    assert read_ground_truth(zipped).table.to_pylist() == [expected]


def test_what_a_line_lacks_is_null_and_ages_are_counted(tmp_path: Path) -> None:
    """No Finding is the empty list; an impossible age is null and counted, a missing one only null."""
    lines = "a.png,No Finding,0,1,414Y,,\nb.png,Edema,0,1,,X,AP\nc.png,Edema,0,2,3,F,AP\n"
    truth = read_ground_truth(write(tmp_path, V2020 + lines))
    rows = truth.table.to_pylist()
    assert [row["findings"] for row in rows] == [[], ["Edema"], ["Edema"]]
    assert [(row["age_years"], row["sex"], row["view_position"]) for row in rows] == [
        (None, None, None), (None, None, "AP"), (3.0, "F", "AP")
    ]  # fmt: skip
    assert truth.ages_unusable == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truth.csv is empty; expected a header"),
        (V2020 + "a.png,Edema,0\n", "1 lines are unusable; the first is line 2: the number of fields differs"),
        (V2020.replace("Patient ID", "Patient"), r"unknown columns Image Index, .*; the nearest known table is nih-"),
        (V2020 + "a.png,,0,1,3,F,PA\n", "has no labels for any of its 1 images"),
        (V2020 + "a.png,Edema,0,,3,F,PA\n", "Patient ID is empty"),
        (V2020 + ",Edema,0,1,3,F,PA\n", "Image Index is empty"),
        (V2020 + GOOD * 2, "the first is line 3: an equivalent line describes this image"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """No line is ever dropped: the error says which one is wrong, whatever else is ignored on it."""
    with pytest.raises(MetadataError, match=message):
        read_ground_truth(write(tmp_path, text))


def test_images_are_found_by_name_path_and_stem(tmp_path: Path) -> None:
    """Folders and suffixes of the predictions do not matter; an unknown image is an error with a name of each side."""
    truth = read_ground_truth(write(tmp_path, V2020 + GOOD + "b.png,Edema|Fever,0,2,3,F,PA\n"))
    assert truth.find(["x/good.png", "b"], "images") == ["good.png", "b.png"]
    assert truth.other_names == {"Fever": 1}
    with pytest.raises(PredictionsError, match=r"1 of 2 images are not .* first: c\.png; .* for example good\.png"):
        truth.find(["b.png", "c.png"], "images")


def test_uncertain_and_blank_cells_are_unknown(tmp_path: Path) -> None:
    """A table of flags gives the labels of the set, NaN where it is uncertain."""
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    header += "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
    lines = f"{header}Fracture,Support Devices\np/patient1/a.jpg,Male,50,Frontal,AP,,,1.0,,,-1.0,0.0,,,,,,,\n"
    truth = read_ground_truth(write(tmp_path, lines), LABEL_SETS["chexpert5"])
    np.testing.assert_array_equal(truth.labels, [[0, 1, 0, np.nan, 0]])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=r"nowhere\.csv' does not exist; expected a file"):
        read_ground_truth(tmp_path / "nowhere.csv")


def test_a_truth_needs_no_follow_up(tmp_path: Path) -> None:
    """The only unused column: it may be missing or hold anything."""
    text = V2020 + GOOD
    expected = read_ground_truth(write(tmp_path, text)).table
    assert read_ground_truth(write(tmp_path, text.replace(",0,", ",x,"))).table == expected
    assert read_ground_truth(write(tmp_path, text.replace("Follow-up #,", "").replace(",0,", ","))).table == expected


@pytest.mark.shared
def test_the_file_of_nih_has_its_published_counts(shared: Path) -> None:
    """All 112,120 lines, 60,361 without a finding and 227 hernias; every age is usable."""
    truth = read_ground_truth(shared / "nih" / "Data_Entry_2017_v2020.csv.gz")
    findings = truth.table["findings"].to_pylist()
    assert len(findings) == 112_120
    assert sum(not names for names in findings) == 60_361
    assert sum("Hernia" in names for names in findings) == 227
    assert truth.table["sex"].to_pylist().count("M") == 63_340
    assert truth.ages_unusable == 0
