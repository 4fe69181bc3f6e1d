"""Metadata tables of published data sets, and tables of one's own: recognised, read and labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.labels.columns import load_column_map
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.metadata import Metadata, read_metadata

CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
STUDY = "CheXpert-v1.0-small/train/patient00001/study"


def read(folder: Path, *tables: str, columns: str | None = None) -> Metadata:
    paths = []
    for number, table in enumerate(tables):
        paths.append(folder / f"{number}.csv")
        paths[-1].write_text(table)
    if columns is not None:
        (folder / "map.toml").write_text(columns)
    return read_metadata(list(map(str, paths)), load_column_map(str(folder / "map.toml")) if columns else None)


def rows(metadata: Metadata, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in metadata.accepted().to_pylist()]


def test_chexpert(tmp_path: Path) -> None:
    """Path, patient, view and three kinds of flags; equal file names in several studies are several images."""
    metadata = read(
        tmp_path,
        f"{CHEXPERT}\n"
        f"{STUDY}1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
        f"{STUDY}2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,\n"
        f"{STUDY}2/view2_lateral.jpg,Unknown,87,Lateral,,,,,,,,,,,,,,,\n",
    )
    assert metadata.column_map.name == "chexpert"
    assert rows(metadata, "image_path", "patient_id", "sex", "age_years", "view_position", "findings") == [
        (f"{STUDY}1/view1_frontal.jpg", "patient00001", "F", 68, "AP", ["No Finding", "Support Devices"]),
        (f"{STUDY}2/view1_frontal.jpg", "patient00001", "M", 87, "PA", ["Lung Opacity", "Fracture"]),
        (f"{STUDY}2/view2_lateral.jpg", "patient00001", None, 87, "Lateral", []),
    ]
    first, second, third = rows(metadata, "findings_unknown", "findings_uncertain")
    assert "Pneumothorax" not in first[0]
    assert len(first[0]) == 11
    assert first[1] == []
    assert second[1] == ["Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"]
    assert len(third[0]) == 14


def test_mimic_in_three_tables(tmp_path: Path) -> None:
    """Labels come by study, splits by image; a study without labels leaves its image unlabelled."""
    labels = ",".join(CHEXPERT.split(",")[5:])
    chexpert = f"subject_id,study_id,{labels}\n10,501,,,1.0{',' * 11}\n11,502,1.0{',' * 13}\n"
    images = "dicom_id,subject_id,study_id,ViewPosition\na1,10,501,PA\na2,10,501,LATERAL\nb1,11,502,AP\nc1,12,503,PA\n"
    split = "dicom_id,study_id,subject_id,split\na1,501,10,train\na2,501,10,train\nb1,502,11,validate\nc1,503,12,test\n"
    for tables in ((chexpert, images, split), (split, images, chexpert)):
        metadata = read(tmp_path, *tables)
        assert metadata.column_map.name == "mimic-cxr-jpg"
        assert rows(metadata, "image_index", "patient_id", "view_position", "findings", "split") == [
            ("a1", "10", "PA", ["Cardiomegaly"], "train"),
            ("a2", "10", "LATERAL", ["Cardiomegaly"], "train"),
            ("b1", "11", "AP", ["No Finding"], "val"),
            ("c1", "12", "PA", None, "test"),
        ]


def test_padchest(tmp_path: Path) -> None:
    """Ages come from the year of birth and the date of the study; reports with quotes and newlines are skipped over."""
    metadata = read(
        tmp_path,
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Report,Labels\n"
        '0,1.png,0,20140915,s1,839860488694292331637988235681460987,1930.0,F,L,"a ""b""\nc .","[\'normal\']"\n'
        "1,2.png,0,20140915,s2,7,1990,O,PA,x,\"['pulmonary fibrosis', ' cardiomegaly', '']\"\n"
        "2,3.png,0,20140915,s2,7,nan,M,PA,x,\n",
    )
    assert metadata.column_map.name == "padchest"
    assert rows(metadata, "image_index", "patient_id", "age_years", "sex", "view_position", "findings") == [
        ("1.png", "839860488694292331637988235681460987", 84, "F", "L", ["normal"]),
        ("2.png", "7", 24, None, "PA", ["pulmonary fibrosis", "cardiomegaly"]),
        ("3.png", "7", None, "M", "PA", None),
    ]


def test_vindr_readers_are_merged_by_majority(tmp_path: Path) -> None:
    """Two of three readers decide; a tie is unknown, and the text of all lines is kept."""
    lines = ["x,R1,1,0", "x,R2,1,1", "x,R3,0,0", "y,R1,1,0", "y,R2,0,0"]
    metadata = read(tmp_path, "\n".join(["image_id,rad_id,Mass,No finding", *lines]))
    assert metadata.column_map.name == "vindr-readers"
    assert not metadata.has_patients
    assert rows(metadata, "image_index", "patient_id", "findings", "findings_unknown", "line") == [
        ("x", "x", ["Mass"], [], "\n".join(lines[:3])),
        ("y", "y", [], ["Mass"], "\n".join(lines[3:])),
    ]


def test_vindr_consensus(tmp_path: Path) -> None:
    """The test set has one line per image and every label a column."""
    metadata = read(tmp_path, "image_id,Mass,Nodule/Mass,No finding\nx,1,0,0\ny,0,0,1\n")
    assert metadata.column_map.name == "vindr"
    assert rows(metadata, "findings") == [(["Mass"],), (["No finding"],)]


def test_rsna(tmp_path: Path) -> None:
    """One line per box: an image is positive if any line is, and it is its own patient."""
    metadata = read(tmp_path, "patientId,x,y,width,height,Target\np,1,2,3,4,1\np,5,6,7,8,1\nq,,,,,0\n")
    assert metadata.column_map.name == "rsna-pneumonia"
    assert rows(metadata, "image_index", "patient_id", "findings") == [("p", "p", ["Pneumonia"]), ("q", "q", [])]


def test_kaggle_sample_and_flags(tmp_path: Path) -> None:
    """The sample's other headers, and a table with one boolean column per finding."""
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImageWidth"
    )
    sample = read(tmp_path, f"{header}\na.png,Mass,0,1,060Y,M,PA,2500\n")
    assert sample.column_map.name == "kaggle-sample"
    assert rows(sample, "age_years", "findings") == [(60, ["Mass"])]
    flags = ",".join(str(finding in ("Mass", "Edema")) for finding in FINDINGS)
    table = read(tmp_path, f"id,{','.join(FINDINGS)},No Finding\na,{flags},False\n")
    assert table.column_map.name == "nih-flags"
    assert rows(table, "findings", "findings_unknown") == [(["Mass", "Edema"], [])]


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """A TOML file names the columns; their order, case and the others do not matter."""
    table = [
        "born;DATE;What;Who;X-ray;set",
        '1950;2010-02-28;"Mass, Edema";p1;d\\a.png;dev',
        "1951;2010-02-28;;p2;b.png;test",
    ]
    metadata = read(
        tmp_path,
        "\n".join(table),
        columns='image = ["File", "x-ray"]\npatient = "Who"\nbirth_year = "Born"\nstudy_date = "Date"\nsplit = "Set"\n'
        '[labels]\ncolumn = "What"\nseparator = ","\n',
    )
    assert metadata.column_map.name == "map"
    assert rows(metadata, "image_path", "patient_id", "age_years", "findings", "split") == [
        ("d/a.png", "p1", 60, ["Mass", "Edema"], "val"),
        ("b.png", "p2", 59, None, "test"),
    ]


def test_only_the_image_is_required(tmp_path: Path) -> None:
    """Without labels an image is unlabelled, without patients it is its own."""
    metadata = read(tmp_path, "f,x\na.png,1\n", columns='image = "f"\n')
    assert rows(metadata, "image_index", "patient_id", "findings") == [("a.png", "a.png", None)]


def test_flags_of_all_other_columns(tmp_path: Path) -> None:
    """The star takes every column that has no other meaning; an unreadable flag is unknown and counted."""
    columns = 'image = "f"\nsex = "s"\n[labels]\nflags = "*"\n'
    metadata = read(tmp_path, "f,s,A,B,C\na.png,F,1,0,maybe\n", columns=columns)
    assert rows(metadata, "findings", "findings_unknown") == [(["A"], ["C"])]
    assert metadata.cell_errors.counts == {("C", "flag-unreadable"): 1}
    renamed = read(tmp_path, "f,A\na.png,1\n", columns='image = "f"\n[labels.flags]\nA = "Mass"\n')
    assert rows(renamed, "findings") == [(["Mass"],)]


def test_names_on_several_lines(tmp_path: Path) -> None:
    """Lines of one image are merged: all names, or those of most lines."""
    table = "f,l\na,Mass\na,Edema\na,Mass\nb,\n"
    for merge, expected in (("any", ["Mass", "Edema"]), ("majority", ["Mass"])):
        columns = f'image = "f"\n[labels]\ncolumn = "l"\nper_line = true\nmerge = "{merge}"\n'
        assert rows(read(tmp_path, table, columns=columns), "findings") == [(expected,), (None,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "cannot read the column map"),
        ('patient = "P"', "does not name the image column"),
        ('image = "i"\nlabel = "l"', r"unknown keys label; expected some of image, patient"),
        ("image = 3", "image is 3; expected the name of a column"),
        ('image = "i"\nlabels = "l"', "labels is 'l'; expected a table"),
        ('image = "i"\n[labels]\ncolumn = "l"\nflags = ["a"]', "a column and flags; expected one of them"),
        ('image = "i"\n[labels]\nseparator = ""', "separator is ''; expected a text"),
        ('image = "i"\n[labels]\nper_line = 1', "per_line is 1; expected true or false"),
        ('image = "i"\n[labels]\nmerge = "all"', "merge is 'all'; expected one of any, majority"),
        ('image = "i"\n[labels.flags]\na = 1', "a label of flags is not a text"),
        ('image = "i"\npatient_pattern = "("', r"patient_pattern is '\('; expected a regular expression"),
        ('image = "i"\npatient_pattern = "p"', "patient_pattern has 0 groups; expected one"),
    ],
)
def test_invalid_column_maps_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file, the key and what was expected."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, "i\na\n", columns=text)


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """No image column, and tables that share no column, are errors that show the headers."""
    with pytest.raises(MetadataError, match=r"has no column f or g for the image; its columns are a, b"):
        read(tmp_path, "a,b\n1,2\n", columns='image = ["f", "g"]\n')
    with pytest.raises(MetadataError, match="shares no column with"):
        read(tmp_path, "f,b\n1,2\n", "c\n1\n", columns='image = "f"\n')


def test_a_patient_that_the_path_does_not_name_rejects_the_line(tmp_path: Path) -> None:
    """With a pattern, an image whose path does not fit has no patient."""
    columns = 'image = "f"\npatient_pattern = "(p[0-9]+)"\n'
    metadata = read(tmp_path, "f\np1/a.png\nx/a.png\n", columns=columns)
    assert rows(metadata, "image_path", "patient_id") == [("p1/a.png", "p1")]
    assert metadata.rejected()["reason"].to_pylist() == ["patient-id-missing"]
