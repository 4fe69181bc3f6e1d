"""Tests of drops: all rows of a valid row group are scored; an invalid one gives one row with the reason."""

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
from cxrfeat.io.schema import scored_schema
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.pipeline import parquet_drops
from cxrfeat.pipeline.parquet_drops import open_drop, score_row_group
from tests import fakes
from tests.cxrfeat.pipeline import drops as samples
from tests.cxrfeat.pipeline.drops import DIM, UNSOUND, damage_page, replace, rows, with_number, write

SCORED = scored_schema(FINDINGS)

FLOATS = pa.list_(pa.float32())
PREDICTOR = Predictor(fakes.bundle(DIM, extractor=samples.EXTRACTOR), "youden")


def score_file(path: Path, root: Path | None = None) -> list[dict[str, Any]]:
    """Open a drop and score all its row groups."""
    folder = str(root or path.parent)
    handles = open_drop(str(path.relative_to(folder)), folder, PREDICTOR).to_pylist()
    batches = [batch for handle in handles for batch in score_row_group(handle, folder, PREDICTOR)]
    assert all(batch.schema == SCORED for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def ok(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in found if row["status"] == "ok"]


def quarantined(found: list[dict[str, Any]]) -> list[tuple[int | None, int | None, str]]:
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
def test_every_row_is_scored_for_any_row_group_size(
    tmp_path_factory: pytest.TempPathFactory, count: int, row_group_size: int, batch: int
) -> None:
    """Row groups and read batches of any size give the same predictions, in order, with their origin."""
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
def test_an_invalid_file_gives_one_row_with_its_reason(tmp_path: Path, name: str) -> None:
    """The row has the number of rows in the file if the footer is readable."""
    path = write(tmp_path / "drop.parquet", rows(20))
    damage, reason = UNSOUND[name]
    damage(path)
    length = {"not-parquet": None, "empty": None, "no-rows": 0}.get(reason, 20)
    assert quarantined(score_file(path)) == [(None, length, reason)]


def test_extractors_are_named_in_the_message(tmp_path: Path) -> None:
    """The message lists the extractors of a mixed file with their row counts, and the head's extractor."""
    damage, _ = UNSOUND["mixed"]
    damage(tmp_path / "mixed.parquet")
    (row,) = score_file(tmp_path / "mixed.parquet")
    assert row["message"] == (
        "embeddings of 'fake:0:fake' (15 rows), 'other:1:x' (5 rows); the head was trained on 'fake:0:fake'"
    )


@pytest.mark.parametrize("column", ["embedding", "extractor", "image_index"])
def test_a_damaged_page_costs_its_row_group_alone(tmp_path: Path, column: str) -> None:
    """With a valid footer and flipped bits in one page, only that row group is quarantined."""
    table = rows(30)
    path = write(tmp_path / "drop.parquet", table)
    damage_page(path, 1, column)
    found = score_file(path)
    assert quarantined(found) == [(1, 10, "not-parquet")]
    assert_scored(ok(found), pa.concat_tables([table.slice(0, 10), table.slice(20)]))


@pytest.mark.parametrize(
    ("table", "reason", "message"),
    [
        (
            with_number(rows(30), 14, np.nan),
            "not-finite",
            "NaN, null or infinity; rows of the row group: 4",
        ),
        (with_number(rows(30), 19, np.inf), "not-finite", "; rows of the row group: 9"),
        (
            replace(rows(30), "embedding", pa.array([None if i == 12 else [0.0] * 4 for i in range(30)], FLOATS)),
            "wrong-length",
            "; rows of the row group: 2",
        ),
        (
            replace(rows(30), "embedding", pa.array([[0.0] * (3 if i == 15 else 4) for i in range(30)], FLOATS)),
            "wrong-length",
            "for example 3; expected 4",
        ),
    ],
)
def test_an_invalid_row_costs_its_row_group(
    tmp_path: Path, table: pa.Table, reason: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row group is quarantined for any read batch size, and the message contains the row numbers."""
    monkeypatch.setattr(parquet_drops, "_BATCH_ROWS", 3)
    found = score_file(write(tmp_path / "drop.parquet", table))
    assert quarantined(found) == [(1, 10, reason)]
    assert len(ok(found)) == 20
    assert message in next(row["message"] for row in found if row["reason"])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), DIM)], ids=str
)
def test_types_of_other_writers_give_the_same_predictions(tmp_path: Path, kind: pa.DataType) -> None:
    """The reader accepts float64, large lists and strings, integer patients, dictionaries and extra columns."""
    table = rows(25)
    other = replace(table, "embedding", table["embedding"].cast(kind))
    other = replace(other, "image_index", other["image_index"].cast(pa.large_string()))
    other = replace(other, "extractor", other["extractor"].dictionary_encode())
    other = replace(other, "patient_id", other["patient_id"].cast(pa.int64()))
    other = replace(other, "ward", [7] * 25).select([*reversed(other.column_names), "ward"])
    found = score_file(write(tmp_path / "other.parquet", other))
    assert_scored(found, table)
    assert [row["patient_id"] for row in found] == table["patient_id"].to_pylist()


def test_missing_patient_columns_are_imputed_and_reported(tmp_path: Path) -> None:
    """Without these columns, predictions equal those for missing values, and each row reports the imputation."""
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
def test_implausible_values_are_imputed_and_never_guessed(tmp_path: Path, column: str, value: object) -> None:
    """An unknown sex code and an impossible age are treated like missing values."""
    table = rows(2)
    invalid = replace(table, column, pa.array([value] * 2, table[column].type))
    without = replace(table, column, pa.nulls(2, table[column].type))
    found, missing = (score_file(write(tmp_path / f"{n}.parquet", t)) for n, t in (("a", invalid), ("b", without)))
    assert [row["any_finding"] for row in found] == [row["any_finding"] for row in missing]
    name = {"age_years": "age", "sex": "sex"}[column]
    assert all(name in row["imputed"] for row in found)


def test_rows_quarantined_by_the_extraction_are_counted_separately(tmp_path: Path) -> None:
    """A status column gives one quarantined row per row group, a status folder one per file."""
    status = ["quarantined" if row in {3, 4, 15} else "ok" for row in range(20)]
    vectors = [None if state != "ok" else [0.5] * DIM for state in status]
    table = replace(replace(rows(20), "status", status), "embedding", pa.array(vectors, pa.list_(pa.float32())))
    found = score_file(write(tmp_path / "drop.parquet", table))
    assert quarantined(found) == [(0, 2, "quarantined-before"), (1, 1, "quarantined-before")]
    assert len(ok(found)) == 17
    folder = write(tmp_path / "status=quarantined" / "drop.parquet", rows(7))
    assert quarantined(score_file(folder)) == [(None, 7, "quarantined-before")]


def test_a_file_that_vanishes_is_missing_at_either_step(tmp_path: Path) -> None:
    """A file missing at the start gives one row; one that vanishes after its footer is read, one per row group."""
    path = write(tmp_path / "drop.parquet", rows(20))
    handles = open_drop(path.name, str(tmp_path), PREDICTOR).to_pylist()
    path.unlink()
    assert quarantined(score_file(path)) == [(None, None, "missing")]
    late = [
        row
        for handle in handles
        for batch in score_row_group(handle, str(tmp_path), PREDICTOR)
        for row in batch.to_pylist()
    ]
    assert quarantined(late) == [(0, 10, "missing"), (1, 10, "missing")]


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ETIMEDOUT, None])
def test_an_error_outside_the_file_stops_the_job(
    tmp_path: Path, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network failure must not put a valid file into quarantine."""
    path = write(tmp_path / "drop.parquet", rows(20))

    def refuse(location: str) -> pa.NativeFile:
        raise OSError(code, "the network is down") if code else OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(storage, "open_input", refuse)
    with pytest.raises(OSError, match=r"network|NETWORK"):
        open_drop(path.name, str(tmp_path), PREDICTOR)
    with pytest.raises(OSError, match=r"network|NETWORK"):
        list(score_row_group({"path": path.name, "row_group": 0, "rows": 10, "reason": None}, str(tmp_path), PREDICTOR))


def test_a_row_count_that_differs_from_the_footer_stops_the_job(tmp_path: Path) -> None:
    """A file that is replaced after its footer is read is an error, never a different count."""
    path = write(tmp_path / "drop.parquet", rows(10))
    handle = {"path": path.name, "row_group": 0, "rows": 11, "reason": None}
    with pytest.raises(RuntimeError, match="row group 0: scored 10 rows; the footer declares 11"):
        list(score_row_group(handle, str(tmp_path), PREDICTOR))
