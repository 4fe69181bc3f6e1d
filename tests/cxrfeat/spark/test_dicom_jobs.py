"""Jobs on DICOM files: columns from the headers, split by hashed patients, and no word that names a person."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pyspark.sql import SparkSession

from cxrfeat.errors import ConfigError, DatasetMismatchError
from cxrfeat.head.bundle import save_bundle
from cxrfeat.images.header import Pseudonyms
from cxrfeat.images.preprocess import to_model_input
from cxrfeat.io.patient_key import load_key
from cxrfeat.labels.splits import split_by_hash
from cxrfeat.spark.embedding import EmbeddingConfig
from cxrfeat.spark.score import ScoreConfig, score
from tests import archives, fakes
from tests.cxrfeat.spark.samples import HEADER, rows_of, run
from tests.dicom_files import dicom, make_dataset, scale, write

MARKER = "QXMARKERZ"
COUNT = 12


def write_films(folder: Path, count: int = COUNT) -> None:
    """Write films of a third as many patients, named by a UID, without a suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        data = dicom(
            scale(fakes.gray_image(seed=index), 12),
            12,
            PatientID=f"P{index // 3}",
            PatientAge=f"{20 + index:03d}Y",
            PatientSex="MF"[index % 2],
            ViewPosition=("PA", "AP")[index % 2],
            PixelSpacing=[0.14, 0.15],
        )
        (folder / f"1.2.840.{index}").write_bytes(data)


def test_rows_have_the_facts_of_their_headers(spark: SparkSession, tmp_path: Path) -> None:
    """Age, sex, view, patient and split come from the header; the embedding is that of the image."""
    write_films(tmp_path / "in")
    (tmp_path / "in" / "knee").write_bytes(dicom(scale(fakes.gray_image(), 12), 12, BodyPartExamined="KNEE"))
    summary = run(spark, tmp_path)
    assert summary["images"]["reasons"] == {"not-a-chest-radiograph": 1}
    pseudonyms = Pseudonyms(load_key())
    rows = [row for row in rows_of(tmp_path / "out").to_pylist() if row["status"] == "ok"]
    assert len(rows) == COUNT
    for row in rows:
        index = int(row["image_index"].rpartition(".")[2])
        patient = pseudonyms.name_patient(f"P{index // 3}")
        assert (row["age_years"], row["sex"]) == (20 + index, "MF"[index % 2])
        assert row["view_position"] == ("PA", "AP")[index % 2]
        assert (row["patient_id"], row["split"]) == (patient, split_by_hash(patient))
        assert (row["modality"], row["body_part"], row["pixel_format"]) == ("DX", "CHEST", "monochrome2-12")
        np.testing.assert_allclose(row["pixel_spacing"], [0.14, 0.15], rtol=1e-6)
        assert len(row["series_id"]) == len(row["instance_id"]) == 32
        expected = fakes.fake_embedding(to_model_input(fakes.gray_image(seed=index)))
        np.testing.assert_allclose(row["embedding"], expected, rtol=1e-5)


def test_a_table_goes_before_the_headers(spark: SparkSession, tmp_path: Path) -> None:
    """What the table says stays; its blank cells, and images without a line, take what the header says."""
    write_films(tmp_path / "in", 4)
    lines = ["1.2.840.0,Mass,0,77,60,F,AP\n", "1.2.840.1,Mass,0,77,,,\n", "1.2.840.2,Mass,0,78,61,M,\n"]
    (tmp_path / "m.csv").write_text(HEADER + "".join(lines))
    run(spark, tmp_path, metadata=str(tmp_path / "m.csv"))
    rows = {row["image_index"]: row for row in rows_of(tmp_path / "out").to_pylist()}
    facts = {
        name: tuple(row[key] for key in ("patient_id", "age_years", "sex", "view_position"))
        for name, row in rows.items()
    }
    assert facts["1.2.840.0"] == ("77", 60, "F", "AP")
    assert facts["1.2.840.1"] == ("77", 21, "F", "AP")
    assert facts["1.2.840.2"] == ("78", 61, "M", "PA")
    assert facts["1.2.840.3"][1:] == (23, "F", "AP")
    assert rows["1.2.840.3"]["split"] is None  # the patients of the table may be the same under other names


def test_headers_name_the_patients_that_a_table_lacks(spark: SparkSession, tmp_path: Path) -> None:
    """If the table has no patient column, the patients and their split come from the headers."""
    write_films(tmp_path / "in", 6)
    (tmp_path / "m.csv").write_text("image_id,Mass\n" + "".join(f"1.2.840.{index},1\n" for index in range(6)))
    (tmp_path / "columns.toml").write_text('image = "image_id"\n[labels]\nflags = ["Mass"]\n')
    run(spark, tmp_path, metadata=str(tmp_path / "m.csv"), columns=str(tmp_path / "columns.toml"))
    rows = rows_of(tmp_path / "out").to_pylist()
    assert [row["findings"] for row in rows] == [["Mass"]] * 6
    assert len({row["patient_id"] for row in rows}) == 2
    assert {row["split"] for row in rows} == {split_by_hash(row["patient_id"]) for row in rows}


def test_identifiers_are_kept_on_request_and_never_mixed(spark: SparkSession, tmp_path: Path) -> None:
    """--keep-patient-ids stores them as they are; another key or the other way is refused for the same output."""
    write_films(tmp_path / "in", 3)
    run(spark, tmp_path, keep_patient_ids=True, patient_key=str(tmp_path / "key"))
    assert set(rows_of(tmp_path / "out")["patient_id"].to_pylist()) == {"P0"}
    for keep, key in ((False, "key"), (True, "other")):
        with pytest.raises(DatasetMismatchError, match="--patient-key"):
            run(spark, tmp_path, keep_patient_ids=keep, patient_key=str(tmp_path / key))
    assert run(spark, tmp_path, keep_patient_ids=True, patient_key=str(tmp_path / "key"))["images"]["ok"] == 3


def test_other_formats_need_no_key(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of PNGs leaves the configuration folder alone."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(fakes.png(fakes.gray_image()))
    run(spark, tmp_path)
    assert not (tmp_path / "configuration").exists()
    assert not (tmp_path / "out" / "identifiers.json").exists()
    write_films(tmp_path / "in", 1)
    run(spark, tmp_path)
    assert (tmp_path / "configuration" / "cxrfeat" / "patient-key").exists()


def test_a_key_that_may_not_be_needed_stops_no_job(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the key cannot be created, archives of PNGs are embedded, and a job with DICOM files is refused."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    (tmp_path / "in").mkdir()
    images = {"a.png": fakes.png(fakes.gray_image())}
    (tmp_path / "in" / "a.tar.gz").write_bytes(archives.tar_bytes(images, "w:gz"))
    assert run(spark, tmp_path)["images"]["ok"] == 1
    assert "identifiers of DICOM files, should any come, are left out" in caplog.text
    write_films(tmp_path / "in", 1)
    with pytest.raises(ConfigError, match="--patient-key FILE"):
        run(spark, tmp_path)


def test_any_dicom_takes_the_rest(spark: SparkSession, tmp_path: Path) -> None:
    """The option embeds what is refused without it; a replay takes it out of the quarantine."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(dicom(scale(fakes.gray_image(), 12), 12, Modality="CT"))
    assert run(spark, tmp_path)["images"]["quarantined"] == 1
    assert run(spark, tmp_path, any_dicom=True, replay_quarantine=True)["images"]["ok"] == 1
    assert rows_of(tmp_path / "out")["modality"].to_pylist() == ["CT"]


def test_archives_may_hold_dicom(spark: SparkSession, tmp_path: Path) -> None:
    """Members of a zip archive have the rows of the files."""
    write_films(tmp_path / "files", 5)
    members = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "export.zip").write_bytes(archives.zip_bytes(members))
    run(spark, tmp_path)
    run(spark, tmp_path, images=str(tmp_path / "files"), output=str(tmp_path / "plain"))
    zipped, plain = (rows_of(tmp_path / name).drop_columns(["image_path", "round"]) for name in ("out", "plain"))
    assert zipped.equals(plain)


def test_scoring_takes_age_and_sex_from_the_headers(spark: SparkSession, tmp_path: Path) -> None:
    """Nothing is imputed where the header knows it."""
    write_films(tmp_path / "in", 3)
    config = EmbeddingConfig(str(tmp_path / "in"), weights="random")
    run(spark, tmp_path)
    extractor = rows_of(tmp_path / "out")["extractor"][0].as_py()
    save_bundle(fakes.bundle(fakes.FAKE_DIM, extractor=extractor), tmp_path / "head")
    settings = ScoreConfig(config.images, str(tmp_path / "head"), str(tmp_path / "scored"), embedding=config)
    score(spark, settings, fakes.make_fake)
    table = pads.dataset(str(tmp_path / "scored" / "predictions"), partitioning="hive").to_table()
    assert table["imputed"].to_pylist() == [[]] * 3
    assert pc.unique(table["patient_id"]).to_pylist() == [Pseudonyms(load_key()).name_patient("P0")]


def marked(dataset: Dataset) -> Dataset:
    """Fill every element that can hold text with the marker."""
    texts = (
        "PatientName PatientID PatientBirthName OtherPatientNames PatientAddress PatientComments AccessionNumber "
        "InstitutionName InstitutionAddress ReferringPhysicianName PerformingPhysicianName OperatorsName StudyID "
        "StudyDescription SeriesDescription ProtocolName StationName Manufacturer DeviceSerialNumber ImageComments "
        "BodyPartExamined ViewPosition ImageLaterality Laterality PatientSex PatientAge Modality VOILUTFunction "
        "PresentationIntentType RescaleType WindowCenterWidthExplanation PatientBirthDate StudyDate"
    )
    for keyword in texts.split():
        setattr(dataset, keyword, MARKER)
    item = Dataset()
    item.CodeValue = item.CodeMeaning = item.CodingSchemeDesignator = MARKER
    dataset.AnatomicRegionSequence = dataset.ViewCodeSequence = Sequence([item])
    dataset.add_new(0x00091001, "LO", MARKER)
    return dataset


def files_with(folder: Path, text: str) -> list[str]:
    """Return the files below a folder that contain a text, in Parquet too: strings are stored as they are."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and text.encode() in path.read_bytes():
            found.append(str(path))
    for table in folder.rglob("*.parquet"):
        content = pads.dataset(str(table)).to_table()
        if text in str(content.to_pydict()):
            found.append(str(table))
    return found


@pytest.mark.slow
def test_no_output_or_log_names_a_person(
    spark: SparkSession, pytestconfig: pytest.Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Headers full of a marker, good files and damaged ones, through the real command: the marker is nowhere."""
    stored = scale(fakes.gray_image(), 12)
    folder = tmp_path / "in"
    folder.mkdir()
    kinds: tuple[dict[str, int], ...] = ({}, {"Rows": 5000}, {"WindowCenter": 9}, {"HighBit": 9}, {"NumberOfFrames": 2})
    for number, elements in enumerate(kinds):
        with warnings.catch_warnings(action="ignore"):  # of values that no VR allows
            data = write(marked(make_dataset(stored, 12, **elements)))
        (folder / f"{number}.dcm").write_bytes(data)
        (folder / f"{number}-cut.dcm").write_bytes(data[: len(data) // 2])
        (folder / f"{number}-short.dcm").write_bytes(data[:700])
        (folder / f"{number}-shifted.dcm").write_bytes(data[:400] + data[403:])
    run(spark, tmp_path, output=str(tmp_path / "closed"))
    words = ["--images", str(folder), "--weights", "random", "--backbone", "resnet18", "--max-quarantined", "1"]
    job = [sys.executable, str(pytestconfig.rootpath / "spark_jobs" / "extract.py")]
    done = subprocess.run(
        [*job, *words, "--output", str(tmp_path / "open"), "--any-dicom"], capture_output=True, text=True, check=True
    )
    said = capfd.readouterr()
    assert MARKER not in done.stdout + done.stderr + said.out + said.err
    for name in ("closed", "open"):
        assert files_with(tmp_path / name, MARKER) == []
        assert json.loads((tmp_path / name / "summary.json").read_text())["images"]["listed"] == 20
    ok = [row for row in rows_of(tmp_path / "open").to_pylist() if row["status"] == "ok"]
    assert ok
    assert all(row["patient_id"] == Pseudonyms(load_key()).name_patient(MARKER) for row in ok)
