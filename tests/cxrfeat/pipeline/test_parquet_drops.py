"""What becomes of a drop: all rows of a sound row group, or one row that says what can't be trusted and why."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrfeat.head.predictor import Predictor
from cxrfeat.io import storage
from cxrfeat.pipeline import parquet_drops
from cxrfeat.pipeline.parquet_drops import open_drop, score_row_group
from cxrfeat.pipeline.score import SCORED
from tests import fakes
from tests.cxrfeat.pipeline import drops as samples
from tests.cxrfeat.pipeline.drops import DIM, UNSOUND, damage_page, replace, rows, with_number, write

FLOATS = pa.list_(pa.float32())
PREDICTOR = Predictor(fakes.bundle(DIM, extractor=samples.EXTRACTOR), "youden")


def score_file(path: Path, root: Path | None = None) -> list[dict[str, Any]]:
    """Open a drop and score all its row groups."""
    handles = open_drop(str(path), PREDICTOR).to_pylist()
    batches = [batch for handle in handles for batch in score_row_group(handle, str(root or path.parent), PREDICTOR)]
    assert all(batch.schema == SCORED for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def ok(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in found if row["status"] == "ok"]


def refused(found: list[dict[str, Any]]) -> list[tuple[int | None, int | None, str]]:
    return [(row["row_group"], row["rows"], row["reason"]) for row in found if row["status"] == "quarantined"]


def expected(table: pa.Table) -> np.ndarray:
    """Return probabilities by the predictor on the whole table."""
    ages = np.array([np.nan if age is None else age for age in table["age_years"].to_pylist()], np.float32)
    sexes = np.array([{"M": 1.0, "F": 0.0}.get(sex, np.nan) for sex in table["sex"].to_pylist()], np.float32)
    embeddings = np.array(table["embedding"].to_pylist(), np.float32)
    return PREDICTOR.predict(embeddings, {"age": ages, "sex": sexes}).probabilities


def assert_scored(found: list[dict[str, Any]], table: pa.Table) -> None:
    assert [row["image_index"] for row in found] == table["image_index"].to_pylist()
    probabilities = [[row[name] for name in SCORED.names if name.startswith("probability_")] for row in found]
    np.testing.assert_allclose(np.reshape(probabilities, (len(found), 14)), expected(table), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), row_group_size=st.integers(1, 50), batch=st.integers(1, 20))
def test_every_row_is_scored_however_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, count: int, row_group_size: int, batch: int
) -> None:
    """Row groups and read batches of any size: the same predictions, in order, each with its place."""
    table = rows(count)
    path = write(tmp_path_factory.mktemp("drops") / "a" / "b.parquet", table, row_group_size=row_group_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_drops, "_BATCH_ROWS", batch)
        found = score_file(path, path.parents[1])
    assert_scored(found, table)
    assert [row["row_group"] for row in found] == [row // row_group_size for row in range(count)]
    assert {(row["drop_file"], row["rows"], row["reason"]) for row in found} == {("a/b.parquet", 1, None)}
    assert [row["imputed"] for row in found[:4]] == [["age", "sex"], [], [], ["age"]][: len(found)]
    assert {row["head"] for row in found} == {PREDICTOR.bundle.fingerprint}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_file_is_one_row_with_its_reason(tmp_path: Path, name: str) -> None:
    """And with the number of rows that it stands for, where its footer tells."""
    path = write(tmp_path / "drop.parquet", rows(20))
    spoil, reason = UNSOUND[name]
    spoil(path)
    length = {"not-parquet": None, "empty": None, "no-rows": 0}.get(reason, 20)
    assert refused(score_file(path)) == [(None, length, reason)]


def test_extractors_are_named_in_the_message(tmp_path: Path) -> None:
    """Both of a mixed file with their rows, and the one that the head wants."""
    spoil, _ = UNSOUND["mixed"]
    spoil(tmp_path / "mixed.parquet")
    (row,) = score_file(tmp_path / "mixed.parquet")
    assert row["message"] == (
        "embeddings of 'fake:0:fake' (15 rows), 'other:1:x' (5 rows); the head was trained on 'fake:0:fake'"
    )


@pytest.mark.parametrize("column", ["embedding", "extractor", "image_index"])
def test_a_damaged_page_costs_its_row_group_alone(tmp_path: Path, column: str) -> None:
    """A good footer, and turned bits in the middle: that row group is refused as a whole, the others are scored."""
    table = rows(30)
    path = write(tmp_path / "drop.parquet", table)
    damage_page(path, 1, column)
    found = score_file(path)
    assert refused(found) == [(1, 10, "not-parquet")]
    assert_scored(ok(found), pa.concat_tables([table.slice(0, 10), table.slice(20)]))


@pytest.mark.parametrize(
    ("table", "reason", "said"),
    [
        (
            with_number(rows(30), 14, np.nan),
            "not-finite",
            "1 embeddings hold NaN, null or infinity; rows [4] of the row group",
        ),
        (with_number(rows(30), 19, np.inf), "not-finite", "rows [9] of"),
        (
            replace(rows(30), "embedding", pa.array([None if i == 12 else [0.0] * 4 for i in range(30)], FLOATS)),
            "wrong-length",
            "rows [2]",
        ),
        (
            replace(rows(30), "embedding", pa.array([[0.0] * (3 if i == 15 else 4) for i in range(30)], FLOATS)),
            "wrong-length",
            "such as 3",
        ),
    ],
)
def test_a_row_that_cannot_be_trusted_costs_its_row_group(
    tmp_path: Path, table: pa.Table, reason: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the row group is read; its rows are named."""
    monkeypatch.setattr(parquet_drops, "_BATCH_ROWS", 3)
    found = score_file(write(tmp_path / "drop.parquet", table))
    assert refused(found) == [(1, 10, reason)]
    assert len(ok(found)) == 20
    assert said in next(row["message"] for row in found if row["reason"])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), DIM)], ids=str
)
def test_other_writers_types_are_the_same_predictions(tmp_path: Path, kind: pa.DataType) -> None:
    """Pandas' float64, Polars' large lists and strings, integer ages and patients, dictionaries, extra columns."""
    table = rows(25)
    other = replace(table, "embedding", table["embedding"].cast(kind))
    other = replace(other, "image_index", other["image_index"].cast(pa.large_string()))
    other = replace(other, "extractor", other["extractor"].dictionary_encode())
    other = replace(other, "patient_id", other["patient_id"].cast(pa.int64()))
    other = replace(other, "ward", [7] * 25).select([*reversed(other.column_names), "ward"])
    found = score_file(write(tmp_path / "other.parquet", other))
    assert_scored(found, table)
    assert [row["patient_id"] for row in found] == table["patient_id"].to_pylist()


def test_missing_columns_of_a_patient_are_imputed_and_said(tmp_path: Path) -> None:
    """No age, sex, patient or augmentation at all: predictions as for unknown ones, flagged in each row."""
    table = rows(5)
    bare = table.select(["image_index", "embedding", "extractor"])
    found = score_file(write(tmp_path / "bare.parquet", bare))
    unknown = replace(table, "age_years", pa.nulls(5, pa.float32()))
    assert_scored(found, replace(unknown, "sex", pa.nulls(5, pa.string())))
    assert {(tuple(row["imputed"]), row["patient_id"], row["augmentation"]) for row in found} == {
        (("age", "sex"), None, "none")
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [("sex", "X"), ("sex", "male"), ("age_years", -1.0), ("age_years", 412.0), ("age_years", np.nan)],
)
def test_what_cannot_be_is_imputed_and_never_guessed(tmp_path: Path, column: str, value: object) -> None:
    """An unknown code of sex and an age that no human has are flagged like missing ones."""
    table = rows(2)
    odd = replace(table, column, pa.array([value] * 2, table[column].type))
    without = replace(table, column, pa.nulls(2, table[column].type))
    found, missing = (score_file(write(tmp_path / f"{n}.parquet", t)) for n, t in (("odd", odd), ("without", without)))
    assert [row["any_finding"] for row in found] == [row["any_finding"] for row in missing]
    name = {"age_years": "age", "sex": "sex"}[column]
    assert all(name in row["imputed"] for row in found)


def test_rows_that_the_extraction_refused_are_counted_apart(tmp_path: Path) -> None:
    """By a status column they are one row in quarantine, by a status folder the file is."""
    status = ["quarantined" if row in {3, 4, 15} else "ok" for row in range(20)]
    vectors = [None if state != "ok" else [0.5] * DIM for state in status]
    table = replace(replace(rows(20), "status", status), "embedding", pa.array(vectors, pa.list_(pa.float32())))
    found = score_file(write(tmp_path / "drop.parquet", table))
    assert refused(found) == [(0, 2, "quarantined-before"), (1, 1, "quarantined-before")]
    assert len(ok(found)) == 17
    folder = write(tmp_path / "status=quarantined" / "drop.parquet", rows(7))
    assert refused(score_file(folder)) == [(None, 7, "quarantined-before")]


def test_a_file_that_vanishes_is_missing_at_either_step(tmp_path: Path) -> None:
    """Before it is opened it is one row; between its footer and its rows, one for each row group."""
    path = write(tmp_path / "drop.parquet", rows(20))
    handles = open_drop(str(path), PREDICTOR).to_pylist()
    path.unlink()
    assert refused(score_file(path)) == [(None, None, "missing")]
    late = [
        row
        for handle in handles
        for batch in score_row_group(handle, str(tmp_path), PREDICTOR)
        for row in batch.to_pylist()
    ]
    assert refused(late) == [(0, 10, "missing"), (1, 10, "missing")]


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ETIMEDOUT, None])
def test_an_error_that_is_not_the_files_own_stops_the_job(
    tmp_path: Path, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is down must not put a sound file into quarantine."""
    path = write(tmp_path / "drop.parquet", rows(20))

    def refuse(location: str) -> pa.NativeFile:
        raise OSError(code, "the network is down") if code else OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(storage, "open_input", refuse)
    with pytest.raises(OSError, match=r"network|NETWORK"):
        open_drop(str(path), PREDICTOR)
    with pytest.raises(OSError, match=r"network|NETWORK"):
        list(score_row_group({"uri": str(path), "row_group": 0, "rows": 10, "reason": None}, str(tmp_path), PREDICTOR))


def test_rows_that_the_footer_did_not_promise_stop_the_job(tmp_path: Path) -> None:
    """A file that was exchanged after its footer was read is an error, never another count."""
    path = write(tmp_path / "drop.parquet", rows(10))
    handle = {"uri": str(path), "row_group": 0, "rows": 11, "reason": None}
    with pytest.raises(RuntimeError, match=r"row group 0: 10 rows were scored; its footer promises 11"):
        list(score_row_group(handle, str(tmp_path), PREDICTOR))
