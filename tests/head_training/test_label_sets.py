"""Other data sets and label sets, from their tables to an evaluated head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cxrfeat.head.bundle import load_bundle
from cxrfeat.io.schema import EMBEDDINGS
from cxrfeat.labels.image_metadata import load_image_metadata
from cxrfeat.labels.label_sets import LABEL_SETS
from head_training import evaluate, fit
from head_training.features.index import read_index
from head_training.report.__main__ import main as report

COUNT, DIM = 240, 12
PARTS = ("train", "train", "val", "test")
CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
RANDOM = np.random.default_rng(0)
FLAGS = RANDOM.choice(["1.0", "0.0", "-1.0", ""], p=[0.4, 0.4, 0.1, 0.1], size=(COUNT, 14))
SPARSE = np.where(RANDOM.uniform(size=FLAGS.shape) < 0.1, FLAGS, "0.0")
"""Flags with which some images have no label."""


def chexpert() -> tuple[list[str], list[str], NDArray[np.str_]]:
    header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(CHEXPERT)}"
    paths = [f"train/patient{n // 4:05}/study{n % 4}/view1_frontal.jpg" for n in range(COUNT)]
    rows = zip(paths, FLAGS, strict=True)
    return (
        ["\n".join([header, *(f"CheXpert-v1.0/{p},Male,50,Frontal,PA,{','.join(f)}" for p, f in rows)])],
        paths,
        FLAGS,
    )


def mimic() -> tuple[list[str], list[str], NDArray[np.str_]]:
    paths = [f"p1/s{n}/image{n}.jpg" for n in range(COUNT)]
    labels = [f"{n // 4},{n},{','.join(FLAGS[n])}" for n in range(COUNT)]
    images = [f"image{n},{n // 4},{n},PA" for n in range(COUNT)]
    splits = [f"image{n},{n},{n // 4},{('train', 'train', 'validate', 'test')[n // 4 % 4]}" for n in range(COUNT)]
    tables = [
        ["subject_id,study_id," + ",".join(CHEXPERT), *labels],
        ["dicom_id,subject_id,study_id,ViewPosition", *images],
        ["dicom_id,study_id,subject_id,split", *splits],
    ]
    return ["\n".join(table) for table in tables], paths, FLAGS


def padchest() -> tuple[list[str], list[str], NDArray[np.str_]]:
    header = "ImageID,ImageDir,PatientID,PatientBirth,PatientSex_DICOM,Projection,StudyDate_DICOM,Labels"
    found = [[label for label, flag in zip(CHEXPERT[1:], row[1:], strict=True) if flag == "1.0"] for row in SPARSE]
    rows = [f'{n}.png,0,{n // 4},1950,M,PA,20100101,"{found[n] or ["normal"]}"' for n in range(COUNT)]
    flags = np.where(SPARSE == "1.0", "1.0", "0.0")
    flags[:, 0] = "0.0"
    return ["\n".join([header, *rows])], [f"{n}.png" for n in range(COUNT)], flags


def embeddings(folder: Path, tables: list[str], paths: list[str], signal: NDArray[np.floating]) -> Path:
    """Write the embeddings table as the extraction would, with vectors that carry the labels."""
    files = []
    for number, table in enumerate(tables):
        files.append(folder / f"table{number}.csv")
        files[-1].write_text(table)
    known = load_image_metadata(list(map(str, files)), paths)
    matched = known.matcher.match(paths)
    assert set(matched["metadata_status"].to_pylist()) == {"matched"}
    vectors = RANDOM.normal(size=(COUNT, DIM)).astype(np.float32)
    vectors[:, : signal.shape[1]] += signal
    split = [PARTS[int(patient.strip("patien")) % 4] for patient in matched["patient_id"].to_pylist()]
    columns = {
        **{name: matched[name] for name in matched.column_names},
        "image_index": [path.rpartition("/")[2] for path in paths],
        "split": split,
        "augmentation": ["none"] * COUNT,
        "extractor": ["fake:0:fake"] * COUNT,
        "status": ["ok"] * COUNT,
        "embedding": vectors.tolist(),
    }
    schema = pa.schema([EMBEDDINGS.field(name) for name in EMBEDDINGS.names if name in columns])
    (folder / "embeddings").mkdir()
    pq.write_table(
        pa.table({name: columns[name] for name in schema.names}, schema), folder / "embeddings" / "0.parquet"
    )
    return folder / "embeddings"


CASES = [
    (chexpert, "chexpert5", ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")),
    (mimic, "chexpert", (*CHEXPERT[1:], "No Finding")),
    (padchest, "normal-abnormal", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "labels", "columns"), CASES, ids=["chexpert", "mimic", "padchest"])
def test_a_data_set_goes_from_its_table_to_a_report(
    tmp_path: Path, make: Any, labels: str, columns: tuple[str, ...] | None
) -> None:
    """Fit, evaluation and report run with the fitting label set; AUROCs are scikit-learn's on the known cells."""
    tables, paths, flags = make()
    names = columns or ("Abnormal",)
    positive = flags == "1.0"
    truth = np.where(positive, 1.0, np.where(flags == "-1.0", np.nan, 0.0))
    if make is mimic:  # blank cells of No Finding are not implied
        truth[:, 0] = np.where(flags[:, 0] == "", 0.0, truth[:, 0])
    truth = truth[:, [CHEXPERT.index(name) for name in columns]] if columns else positive.any(axis=1)[:, None]
    features = embeddings(tmp_path, tables, paths, np.nan_to_num(truth)[:, :DIM])
    run = tmp_path / "run"
    options = ["--features", str(features), "--output", str(run), "--epochs", "3", "--quiet", "--labels", labels]
    without = ["--without", "age,sex"] if make is mimic else []  # its tables have neither
    assert fit.main([*options, *without, "--no-report"]) == 0
    bundle = load_bundle(run / "head")
    assert bundle.label_set.name == labels
    assert [name.replace("_", " ") for name in bundle.label_set.outputs] == [name.replace("_", " ") for name in names]
    evaluation = ["--run", str(run), "--output", str(run / "evaluation"), "--resamples", "20"]
    assert evaluate.main(evaluation) == 0
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    predictions = predictions[predictions["split"] == "test"]
    row_of = {path: row for row, path in enumerate(paths)} | {
        path.rpartition("/")[2]: row for row, path in enumerate(paths)
    }
    rows = [row_of[name] for name in predictions["image_index"]]
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    found = {
        entry["scope"]: entry
        for entry in metrics["numbers"]
        if (entry["split"], entry["group"], entry["model"], entry["metric"]) == ("test", "all", "predictions", "auroc")
    }
    for column, output in enumerate(bundle.label_set.outputs):
        label, score = truth[rows, column], predictions[f"probability_{output}"].to_numpy()
        known = ~np.isnan(label)
        assert found[output]["value"] == pytest.approx(roc_auc_score(label[known], score[known]), abs=1e-9)
        assert found[output]["images"] == known.sum()
    page = (run / "evaluation" / "report.html").read_text()
    assert "ChestX-ray14" not in page.replace("text mining", "")
    assert report(["--run", str(run), "--output", str(tmp_path / "page")]) == 0


def test_equal_file_names_are_told_apart_by_path(tmp_path: Path) -> None:
    """Where names repeat, the path is the name of an image in all tables of a run."""
    tables, paths, _ = chexpert()
    index = read_index(str(embeddings(tmp_path, tables, paths, np.zeros((COUNT, 1)))), LABEL_SETS["chexpert5"])
    assert sorted(index.table["image_index"].to_pylist()) == sorted(paths)
