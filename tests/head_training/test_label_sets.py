"""Other data sets and label sets, from their tables to an evaluated head."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cxrfeat.head.bundle import load_bundle
from cxrfeat.io.schema import EMBEDDINGS
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.image_metadata import load_image_metadata
from cxrfeat.labels.label_sets import LABEL_SETS
from head_training import evaluate, fit
from head_training.features.index import read_index
from head_training.report.__main__ import main as report
from tests.nih_lines import HEADER_SHORT

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


class Layout(NamedTuple):
    """A data set in its published layout.

    Attributes:
        tables: texts of its tables.
        paths: (N,) paths of its images.
        truth: (N, F) labels of the set's outputs, NaN where unknown.
        labels: name of the label set, or labels of a set of one's own.
    """

    tables: list[str]
    paths: list[str]
    truth: NDArray[np.float64]
    labels: str | tuple[str, ...]


def truth_of(flags: NDArray[np.str_], columns: Sequence[str], *, blank: float = 0.0) -> NDArray[np.float64]:
    values = np.select([flags == "1.0", flags == "-1.0", flags == ""], [1.0, np.nan, blank], 0.0)
    return values[:, [CHEXPERT.index(name) for name in columns]]


def chexpert() -> Layout:
    paths = [f"train/patient{n // 4:05}/study{n % 4}/view1_frontal.jpg" for n in range(COUNT)]
    lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(CHEXPERT)}"]
    lines += [f"CheXpert-v1.0/{path},Male,50,Frontal,PA,{','.join(FLAGS[n])}" for n, path in enumerate(paths)]
    columns = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    return Layout(["\n".join(lines)], paths, truth_of(FLAGS, columns), "chexpert5")


def mimic() -> Layout:
    paths = [f"p1/s{n}/image{n}.jpg" for n in range(COUNT)]
    tables = [
        ["subject_id,study_id," + ",".join(CHEXPERT), *(f"{n // 4},{n},{','.join(FLAGS[n])}" for n in range(COUNT))],
        ["dicom_id,subject_id,study_id,ViewPosition", *(f"image{n},{n // 4},{n},PA" for n in range(COUNT))],
        ["dicom_id,study_id,subject_id,split", *(f"image{n},{n},{n // 4},{PARTS[n // 4 % 4]}" for n in range(COUNT))],
    ]
    truth = truth_of(FLAGS, (*CHEXPERT[1:], "No Finding"))
    return Layout(["\n".join(table) for table in tables], paths, truth, "chexpert")


def padchest() -> Layout:
    found = [[label for label, flag in zip(CHEXPERT[1:], row[1:], strict=True) if flag == "1.0"] for row in SPARSE]
    lines = ["ImageID,ImageDir,PatientID,PatientBirth,PatientSex_DICOM,Projection,StudyDate_DICOM,Labels"]
    lines += [f'{n}.png,0,{n // 4},1950,M,PA,20100101,"{found[n] or ["normal"]}"' for n in range(COUNT)]
    truth = np.array([[float(bool(names))] for names in found])
    return Layout(["\n".join(lines)], [f"{n}.png" for n in range(COUNT)], truth, "normal-abnormal")


def vindr() -> Layout:
    votes = RANDOM.integers(0, 2, size=(COUNT, 3, 2))  # three readers, two labels
    lines = ["image_id,rad_id,Mass,Edema"]
    lines += [f"image{n},R{r},{votes[n, r, 0]},{votes[n, r, 1]}" for n in range(COUNT) for r in range(3)]
    truth = (votes.sum(axis=1) >= 2).astype(float)
    return Layout(["\n".join(lines)], [f"train/image{n}.png" for n in range(COUNT)], truth, ("Mass", "Edema"))


def rsna() -> Layout:
    boxes = RANDOM.integers(0, 3, size=COUNT)
    lines = ["patientId,x,y,width,height,Target"]
    lines += [f"{n},{k},2,3,4,1" if boxes[n] else f"{n},,,,,0" for n in range(COUNT) for k in range(max(1, boxes[n]))]
    truth = (boxes > 0).astype(float)[:, None]
    return Layout(["\n".join(lines)], [f"{n}.jpg" for n in range(COUNT)], truth, ("Pneumonia",))


def nih_flags() -> Layout:
    truth = (RANDOM.uniform(size=(COUNT, 14)) < 0.4).astype(float)
    lines = [f"id,{','.join(FINDINGS)}", *(f"{n}.jpg,{','.join(str(v > 0) for v in truth[n])}" for n in range(COUNT))]
    return Layout(["\n".join(lines)], [f"{n}.jpg" for n in range(COUNT)], truth, "nih14")


def kaggle_sample() -> Layout:
    truth = (RANDOM.uniform(size=(COUNT, 14)) < 0.2).astype(float)
    lines = [f"{HEADER_SHORT},OriginalImageWidth"]
    for n in range(COUNT):
        names = "|".join(name for name, value in zip(FINDINGS, truth[n], strict=True) if value) or "No Finding"
        lines.append(f"{n}.png,{names},0,{n // 4},0{30 + n % 50}Y,M,PA,2500")
    truth = np.column_stack([truth, ~truth.any(axis=1)])
    return Layout(["\n".join(lines)], [f"images/{n}.png" for n in range(COUNT)], truth, "nih14+no-finding")


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
    split = [PARTS[row // 4 % 4] for row in range(COUNT)]
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


LAYOUTS = [chexpert, mimic, padchest, vindr, rsna, nih_flags, kaggle_sample]


@pytest.mark.slow
@pytest.mark.parametrize("make", LAYOUTS)
def test_a_data_set_goes_from_its_table_to_a_report(tmp_path: Path, make: Callable[[], Layout]) -> None:
    """Fit, evaluation and report run with the fitting label set; AUROCs are scikit-learn's on the known cells."""
    tables, paths, truth, labels = make()
    features = embeddings(tmp_path, tables, paths, np.nan_to_num(truth)[:, :DIM])
    run, name = tmp_path / "run", labels
    if isinstance(labels, tuple):
        name = str(tmp_path / "own.toml")
        Path(name).write_text(f"labels = {json.dumps(labels)}\n")
    options = ["--features", str(features), "--output", str(run), "--epochs", "3", "--quiet", "--labels", str(name)]
    without = ["--without", "age,sex"] if make in (mimic, vindr, rsna, nih_flags) else []  # their tables have neither
    assert fit.main([*options, *without, "--no-report"]) == 0
    bundle = load_bundle(run / "head")
    assert bundle.label_set.outputs == (labels if isinstance(labels, tuple) else LABEL_SETS[labels].outputs)
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
    assert ("ChestX-ray14" in page) == str(labels).startswith("nih")
    assert report(["--run", str(run), "--output", str(tmp_path / "page")]) == 0


def test_equal_file_names_are_told_apart_by_path(tmp_path: Path) -> None:
    """Where names repeat, the path is the name of an image in all tables of a run."""
    tables, paths, *_ = chexpert()
    index = read_index(str(embeddings(tmp_path, tables, paths, np.zeros((COUNT, 1)))), LABEL_SETS["chexpert5"])
    assert sorted(index.table["image_index"].to_pylist()) == sorted(paths)
