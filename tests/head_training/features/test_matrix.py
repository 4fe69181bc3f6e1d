"""Tests of loading: every usable row once, in one order for any number of files, and clear errors for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrfeat.errors import ConfigError, FeaturesError
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.io.schema import Split
from head_training.features import matrix
from head_training.features.matrix import load_features
from tests import s3
from tests.head_training import samples
from tests.head_training.samples import DIM, change, random_table, write
from tests.multi_hot import to_multi_hot


def retype(rows: pa.Table, kind: pa.DataType) -> pa.Table:
    column = rows.schema.get_field_index("embedding")
    return rows.set_column(column, "embedding", rows["embedding"].cast(kind))


def append(rows: pa.Table, row: int, **values: object) -> pa.Table:
    """Append a copy of a row with some values changed."""
    copy = rows.slice(row, 1)
    for column, value in values.items():
        copy = change(copy, column, 0, value)
    return pa.concat_tables([rows, copy])


def test_rows_come_as_they_were_written(tmp_path: Path) -> None:
    """Each image's vector, age, sex and labels end in one row of the matrix, grouped by split."""
    rows = change(change(random_table(), "age_years", 3, None), "sex", 4, None)
    features = load_features(str(write(rows, tmp_path)), COVARIATES)
    index = features.index.table
    assert features.matrix.shape == (60, DIM + 2)
    assert features.matrix.dtype == np.float32
    assert features.matrix.flags.c_contiguous
    by_name = {row["image_index"]: row for row in rows.to_pylist()}
    for number, name in enumerate(index["image_index"].to_pylist()):
        row = by_name[name]
        sex = {"M": 1.0, "F": 0.0, None: np.nan}[row["sex"]]
        age = np.nan if row["age_years"] is None else row["age_years"]
        np.testing.assert_array_equal(features.matrix[number], np.array([*row["embedding"], age, sex], np.float32))
        np.testing.assert_array_equal(features.labels[number], to_multi_hot([row["findings"]])[0])
    for split, count in ((Split.TRAIN, 42), (Split.VAL, 6), (Split.TEST, 12)):
        assert index["split"].to_pylist()[features.rows(split)] == [split.value] * count
    assert features.index.extractor == samples.EXTRACTOR


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), DIM)])
def test_every_arrow_list_of_float32_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Lists, large lists and fixed-size lists give the same matrix."""
    expected = load_features(str(write(random_table(), tmp_path / "a")), ()).matrix
    found = load_features(str(write(retype(random_table(), kind), tmp_path / "b")), ()).matrix
    np.testing.assert_array_equal(found, expected)


def test_the_number_of_files_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any order, number of files, row groups and read batches give the same matrix, labels and index."""
    rows = random_table(200)
    expected = load_features(str(write(rows, tmp_path / "one")), COVARIATES)
    shuffled = rows.take(np.random.default_rng(1).permutation(200))
    monkeypatch.setattr(matrix, "_BATCH_ROWS", 7)
    found = load_features(str(write(shuffled, tmp_path / "many", files=3, row_group_size=11)), COVARIATES)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.index.table.equals(expected.index.table)


def test_float64_is_cast(tmp_path: Path) -> None:
    """What pandas made of the embeddings is the same matrix, rounded to float32."""
    expected = load_features(str(write(BASE, tmp_path / "single")), COVARIATES)
    found = load_features(str(write(retype(BASE, pa.list_(pa.float64())), tmp_path / "double")), COVARIATES)
    assert found.matrix.dtype == np.float32
    np.testing.assert_array_equal(found.matrix, expected.matrix)


def test_a_uri_is_a_folder_too(tmp_path: Path) -> None:
    """file: URIs, like all others, go through pyarrow's file systems."""
    folder = write(random_table(), tmp_path / "with space")
    np.testing.assert_array_equal(
        load_features(f"file://{str(folder).replace(' ', '%20')}", ()).matrix, load_features(str(folder), ()).matrix
    )


def test_rows_on_s3_are_those_on_a_disk(tmp_path: Path, bucket: str) -> None:
    """The folder that the extraction wrote to S3 is read from there, by either scheme."""
    expected = load_features(str(write(random_table(), tmp_path, files=3)), COVARIATES)
    s3.upload(tmp_path, f"{bucket}/out/embeddings")
    for root in (bucket, bucket.replace("s3a:", "s3:")):
        found = load_features(f"{root}/out/embeddings", COVARIATES)
        np.testing.assert_array_equal(found.matrix, expected.matrix)
        assert found.index.table.equals(expected.index.table)


def test_nothing_is_read_through_python_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch becomes a view of Arrow's own memory."""
    seen = []
    original = matrix._to_block

    def watch(vectors: pa.Array, *rest: object) -> samples.Floats:
        block = original(vectors, *rest)  # type: ignore[arg-type]
        start = vectors.values.buffers()[1].address
        seen.append(start <= block.ctypes.data < start + vectors.values.buffers()[1].size)
        return block

    monkeypatch.setattr(matrix, "_to_block", watch)
    load_features(str(write(random_table(), tmp_path)), ())
    assert seen == [True]


def test_unusable_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """Quarantined, unlabelled, and mirrored val and test rows are left out; mirrored training rows are not."""
    rows = random_table()
    rows = append(append(rows, 0, augmentation="hflip"), 7, augmentation="hflip")
    rows = append(append(rows, 1, image_index="x", findings=None), 2, image_index="y", split=None)
    rows = append(rows, 3, image_index="z", embedding=None)
    status = pa.array(["ok"] * 64 + ["quarantined"])
    pq.write_table(rows.append_column("status", status), tmp_path / "all.parquet")
    features = load_features(str(tmp_path), ())
    assert features.matrix.shape == (61, DIM)
    assert features.index.left_out == {"quarantined": 1, "unlabelled": 2, "augmented outside training": 1}
    assert features.index.table.slice(0, 2)["augmentation"].to_pylist() == ["hflip", "none"]


def test_quarantine_folders_are_not_opened(tmp_path: Path) -> None:
    """What lies in another status folder, or is hidden, is never read."""
    write(random_table(), tmp_path)
    for name in ("round=0/status=quarantined/part.parquet", "round=0/_temporary/part.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not Parquet")
    assert len(load_features(str(tmp_path), ()).matrix) == 60


BASE = random_table()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (BASE.slice(0, 0), "none of the 0 rows"),
        (BASE.drop_columns(["split", "embedding"]), "lacks the columns embedding, split; it has"),
        (change(BASE, "extractor", 5, "b"), r"'b' \(1 rows\), 'fake:0:fake' \(59 rows\)"),
        (change(BASE, "extractor", 5, None), "several extractors"),
        (change(BASE, "embedding", 5, [1.0] * 5), r"1 embeddings have the wrong length, .* 5; expected 6; rows 5$"),
        (change(BASE, "embedding", 5, None), r"for example 0; expected 6; rows 5$"),
        (change(BASE, "embedding", 0, None), "row 0: the embedding is empty"),
        (change(BASE, "embedding", 5, [1.0] * 5 + [np.nan]), "contain NaN.*rows 5$"),
        (change(BASE, "embedding", 6, [1.0] * 5 + [-np.inf]), "infinity; rows 6$"),
        (change(BASE, "embedding", 8, [1.0] * 5 + [None]), "null or infinity; rows 8$"),
        (append(BASE, 5), "several rows with the same augmentation; the first: a/000005.png"),
        (append(BASE, 5, image_index="new", split="val"), r"the first: 5 \(train, val\)"),
        (change(BASE, "patient_id", 5, None), "1 labelled rows have no patient_id"),
        (change(BASE, "image_index", 5, None), "1 labelled rows have no image_index"),
        (change(BASE, "split", 5, "dev"), "split has unknown values: dev; expected one of train, val, test"),
        (change(BASE, "sex", 5, "X"), "sex has unknown values: X; expected one of null, M, F"),
        (
            change(BASE, "augmentation", 5, "rot"),
            "augmentation has unknown values: rot; expected none, ",
        ),
        (BASE.slice(0, 7), "no labelled row in val, test; found 7 in train"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, rows: pa.Table, message: str) -> None:
    """Each fault has an error that names it, what was expected and where."""
    folder = str(write(rows, tmp_path))
    with pytest.raises(FeaturesError, match=message):
        load_features(folder, ())


def test_a_row_is_named_by_its_place_in_its_file(tmp_path: Path) -> None:
    """Second file, third row group: the error says which file and the row in it."""
    rows = change(BASE, "embedding", 30 + 25, [np.nan] * DIM)
    with pytest.raises(FeaturesError, match=r"round=1/status=ok/part-0.parquet: 1 emb.*rows 25$"):
        load_features(str(write(rows, tmp_path, files=2, row_group_size=10)), ())


def test_folders_without_embeddings_are_refused(tmp_path: Path) -> None:
    """No folder, an empty one, and a file that is not Parquet give different errors."""
    with pytest.raises(ConfigError, match="does not exist; expected a folder"):
        load_features(str(tmp_path / "none"), ())
    with pytest.raises(FeaturesError, match="no Parquet file with status=ok"):
        load_features(str(tmp_path), ())
    (tmp_path / "out" / "embeddings").mkdir(parents=True)
    with pytest.raises(FeaturesError, match=r"did you mean .*/out/embeddings\?"):
        load_features(str(tmp_path / "out"), ())
    (tmp_path / "part.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(FeaturesError, match=r"cannot read part\.parquet"):
        load_features(str(tmp_path), ())
