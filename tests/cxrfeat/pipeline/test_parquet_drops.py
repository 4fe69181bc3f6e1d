"""Tests of drops: all rows of a valid row group are scored; an invalid one gives one row with the reason."""

from __future__ import annotations

import dataclasses
import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrfeat.head.predictor import Predictor
from cxrfeat.io import storage
from cxrfeat.io.schema import scored_schema
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.pipeline import drop_file, parquet_drops
from cxrfeat.pipeline.parquet_drops import open_drop, score_row_groups
from tests import fakes
from tests.cxrfeat.pipeline import drops as samples
from tests.cxrfeat.pipeline.drops import DIM, UNSOUND, damage_page, replace, rows, with_number, write

SCORED = scored_schema(FINDINGS)

PROBABILITIES = [name for name in SCORED.names if name.startswith("probability_")]
FLOATS = pa.list_(pa.float32())
PREDICTOR = Predictor(fakes.bundle(DIM, extractor=samples.EXTRACTOR), "youden")


def score_file(path: Path, root: Path | None = None) -> list[dict[str, Any]]:
    """Open a drop and score all its row groups."""
    folder = str(root or path.parent)
    handles = open_drop(str(path.relative_to(folder)), folder, PREDICTOR).to_pylist()
    batches = list(score_row_groups(handles, folder, PREDICTOR))
    assert all(batch.schema == SCORED for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def read_in_batches(patch: pytest.MonkeyPatch, size: int) -> None:
    """Read and group at most ``size`` rows."""
    for module in (drop_file, parquet_drops):
        patch.setattr(module, "BATCH_ROWS", size)


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
        read_in_batches(patch, batch)
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


def with_vector(table: pa.Table, row: int, vector: list[float] | None) -> pa.Table:
    vectors = table["embedding"].to_pylist()
    vectors[row] = vector
    return replace(table, "embedding", pa.array(vectors, FLOATS))


BAD_ROWS: dict[str, tuple[pa.Table, int, str]] = {
    "NaN": (with_number(rows(30), 14, np.nan), 14, "not-finite"),
    "infinity": (with_number(rows(30), 19, np.inf), 19, "not-finite"),
    "null": (with_vector(rows(30), 12, None), 12, "wrong-length"),
    "short": (with_vector(rows(30), 15, [0.0] * 3), 15, "wrong-length"),
}


@pytest.mark.parametrize("size", [1, 10, 30])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_an_invalid_vector_costs_its_row_alone(
    tmp_path: Path, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is quarantined with its names; all others are scored, for any row group and read batch size."""
    read_in_batches(monkeypatch, 3)
    table, row, reason = BAD_ROWS[name]
    found = score_file(write(tmp_path / "drop.parquet", table, row_group_size=size))
    assert quarantined(found) == [(row // size, 1, reason)]
    (refused,) = (entry for entry in found if entry["status"] == "quarantined")
    assert (refused["image_index"], refused["patient_id"]) == (f"0000_{row:05}.png", str(row // 2))
    assert_scored(ok(found), pa.concat_tables([table.slice(0, row), table.slice(row + 1)]))


def test_a_vector_that_overflows_the_head_is_never_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite number far from all training data gives no probability: its row says so, the others are scored."""
    bundle = fakes.bundle(DIM, extractor=samples.EXTRACTOR)
    narrow = dataclasses.replace(bundle.inputs, scale=np.full(DIM, 1e-3, np.float32))
    monkeypatch.setitem(globals(), "PREDICTOR", Predictor(dataclasses.replace(bundle, inputs=narrow), "youden"))
    found = score_file(write(tmp_path / "drop.parquet", with_vector(rows(30), 12, [3e38, -3e38, 3e38, -3e38])))
    assert quarantined(found) == [(1, 1, "not-finite")]
    assert len(ok(found)) == 29


def test_many_invalid_vectors_cost_the_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, one row stands for the row group, and the message names the first rows."""
    monkeypatch.setattr(parquet_drops, "MAX_BAD_ROWS", 2)
    table = rows(30)
    for row in (11, 13, 17):
        table = with_vector(table, row, None)
    found = score_file(write(tmp_path / "drop.parquet", table))
    assert quarantined(found) == [(1, 10, "wrong-length")]
    assert len(ok(found)) == 20
    assert "; rows of the row group: 1, 3, 7" in next(row["message"] for row in found if row["reason"])


def plain(path: Path, table: pa.Table) -> Path:
    """Write a drop without checksums, whose texts can be changed in place."""
    pq.write_table(table, path, row_group_size=10, compression="none")
    return path


def renamed(path: Path, name: bytes, other: bytes) -> int:
    """Replace a column name or value by one of the same length everywhere in a file."""
    assert len(name) == len(other)
    return path.write_bytes(path.read_bytes().replace(name, other))


def append(table: pa.Table, name: str) -> pa.Table:
    return pa.table([*table.columns, table[name]], names=[*table.column_names, name])


FOREIGN: dict[str, tuple[Callable[[Path], object], list[tuple[int | None, int | None, str]]]] = {
    "sex twice": (lambda path: write(path, append(rows(20), "sex")), [(None, 20, "duplicate-column")]),
    "embedding twice": (lambda path: write(path, append(rows(20), "embedding")), [(None, 20, "duplicate-column")]),
    "another column twice": (
        lambda path: write(path, append(replace(rows(20), "ward", [1] * 20), "ward")),
        [],
    ),
    "name in Latin-1": (
        lambda path: (plain(path, replace(rows(20), "warde", [1] * 20)), renamed(path, b"warde", b"w\xe4rde")),
        [(None, None, "not-utf-8")],
    ),
    "image in Latin-1": (
        lambda path: (plain(path, rows(20)), renamed(path, b"0000_00003.png", b"0000_0\xe4003.png")),
        [(0, 10, "not-utf-8")],
    ),
    "patient in Latin-1": (
        lambda path: (
            plain(path, replace(rows(20), "patient_id", ["Mueller"] * 20)),
            renamed(path, b"Mueller", b"M\xfcller "),
        ),
        [(0, 10, "not-utf-8"), (1, 10, "not-utf-8")],
    ),
    "extractors in Latin-1": (
        lambda path: (plain(path, rows(20)), renamed(path, b"fake:0:fake", b"fak\xe4:0:fake")),
        [(0, 10, "not-utf-8"), (1, 10, "not-utf-8")],
    ),
    "unknown status": (
        lambda path: write(path, replace(rows(20), "status", ["ok"] * 8 + ["OK", None] + ["ok"] * 10)),
        [(0, 1, "unknown-status"), (0, 1, "unknown-status")],
    ),
    "long name": (
        lambda path: write(path, replace(rows(20), "image_index", ["x" * 1_000_000] * 20)),
        [(0, 10, "too-large"), (1, 10, "too-large")],
    ),
    "long vectors": (
        lambda path: write(path, replace(rows(20), "embedding", pa.array([[0.0] * 100_000] * 20, FLOATS))),
        [(row // 10, 1, "wrong-length") for row in range(20)],
    ),
    "long vectors in many rows": (
        lambda path: write(
            path, replace(rows(40), "embedding", pa.array([[0.0] * 999] * 40, FLOATS)), row_group_size=20
        ),
        [(0, 20, "wrong-length"), (1, 20, "wrong-length")],
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_wrong_is_quarantined_and_the_rest_is_scored(tmp_path: Path, name: str) -> None:
    """Columns, texts and states of any kind: a reason, and a table that every program can read."""
    spoil, expected_rows = FOREIGN[name]
    spoil(tmp_path / "drop.parquet")
    found = score_file(tmp_path / "drop.parquet")
    assert quarantined(found) == expected_rows
    assert sum(row["rows"] or 20 for row in found) == (40 if "many" in name else 20)


def test_a_row_group_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than any writer makes are refused by the footer alone."""
    read_in_batches(monkeypatch, 5)
    monkeypatch.setattr(parquet_drops, "MAX_ROWS", 9)
    found = score_file(write(tmp_path / "drop.parquet", rows(29)))
    assert quarantined(found) == [(0, 10, "too-large"), (1, 10, "too-large")]
    assert len(ok(found)) == 9


def test_large_row_groups_wait_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions that do not wait in memory are the same."""
    path = write(tmp_path / "drop.parquet", rows(50), row_group_size=25)
    read_in_batches(monkeypatch, 7)
    expected_rows = score_file(path)
    monkeypatch.setattr(parquet_drops, "_IN_MEMORY_ROWS", 10)
    assert score_file(path) == expected_rows


def test_a_file_is_opened_once_for_all_its_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a thousand row groups is read in one pass: opened once, and small row groups together."""
    table = rows(1000)
    path = write(tmp_path / "drop.parquet", table, row_group_size=1)
    handles = open_drop(path.name, str(tmp_path), PREDICTOR).to_pylist()
    opened: list[str] = []
    real = storage.open_input

    def record(location: str) -> pa.NativeFile:
        opened.append(location)
        return real(location)

    monkeypatch.setattr(storage, "open_input", record)
    batches = list(score_row_groups(handles, str(tmp_path), PREDICTOR))
    assert len(opened) == len(batches) == 1
    found = batches[0].to_pylist()
    assert_scored(found, table)
    assert [row["row_group"] for row in found] == list(range(1000))


def test_unknown_sexes_are_reported(tmp_path: Path) -> None:
    """The caller learns how many of the given sexes are known; words are understood as in metadata tables."""
    seen: list[tuple[str, int, int]] = []
    sexes = ["W", "W", None, "female", "MALE"] * 2
    path = write(tmp_path / "drop.parquet", replace(rows(10), "sex", sexes))
    handles = open_drop(path.name, str(tmp_path), PREDICTOR).to_pylist()
    found = list(score_row_groups(handles, str(tmp_path), PREDICTOR, lambda *counts: seen.append(counts)))
    assert seen == [("drop.parquet", 8, 4)]
    assert ["sex" in row["imputed"] for batch in found for row in batch.to_pylist()] == [
        True,
        True,
        True,
        False,
        False,
    ] * 2


def mutated(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randrange(1, 9)):
        at = chance.randrange(len(made))
        if chance.random() < 0.7:
            made[at] ^= 1 << chance.randrange(8)
        elif chance.random() < 0.5:
            del made[at : at + chance.randrange(1, 9)]
        else:
            made[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(made)


@pytest.mark.parametrize("seed", range(5))
def test_mutated_drops_are_scored_or_quarantined(tmp_path: Path, seed: int) -> None:
    """100 damaged files a seed: every row is finite or has a reason, and nothing else escapes."""
    chance = random.Random(seed)
    write(tmp_path / "plain.parquet", rows(40))
    pq.write_table(replace(rows(40), "status", ["ok"] * 40), tmp_path / "zstd.parquet", compression="zstd")
    originals = [(tmp_path / name).read_bytes() for name in ("plain.parquet", "zstd.parquet")]
    reasons = set()
    for _ in range(100):
        (tmp_path / "drop.parquet").write_bytes(mutated(chance.choice(originals), chance))
        found = score_file(tmp_path / "drop.parquet")
        assert found
        for row in found:
            assert (row["status"] == "ok") == (row["reason"] is None)
            assert row["reason"] is not None or np.isfinite([row[name] for name in PROBABILITIES]).all()
            reasons.add(row["reason"])
    assert {None, "not-parquet"} <= reasons


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), DIM), pa.list_(pa.float16())],
    ids=str,
)
def test_types_of_other_writers_give_the_same_predictions(tmp_path: Path, kind: pa.DataType) -> None:
    """The reader accepts other floats, large lists and strings, integer patients, dictionaries and extra columns."""
    table = rows(25)
    if kind == pa.list_(pa.float16()):
        table = replace(table, "embedding", table["embedding"].cast(kind).cast(FLOATS))  # representable numbers
    other = replace(table, "embedding", table["embedding"].cast(kind))
    other = replace(other, "image_index", other["image_index"].cast(pa.large_string()))
    other = replace(other, "extractor", other["extractor"].dictionary_encode())
    other = replace(other, "patient_id", other["patient_id"].cast(pa.int64()))
    other = replace(other, "ward", [7] * 25).select([*reversed(other.column_names), "ward"])
    found = score_file(write(tmp_path / "other.parquet", other))
    assert_scored(found, table)
    assert [row["patient_id"] for row in found] == table["patient_id"].to_pylist()


@pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(25, 2)], ids=str)
def test_numbers_of_patients_have_no_decimal_point(tmp_path: Path, kind: pa.DataType) -> None:
    """Patients that another program has stored as floats or decimals have the names of the integers; ages widen."""
    table = rows(8)
    other = replace(table, "patient_id", table["patient_id"].cast(pa.int64()).cast(kind))
    other = replace(other, "age_years", pa.array([50] * 8, pa.int64()).cast(kind))
    found = score_file(write(tmp_path / "other.parquet", other))
    assert [row["patient_id"] for row in found] == table["patient_id"].to_pylist()
    assert not any("age" in row["imputed"] for row in found)


def test_tensors_are_vectors(tmp_path: Path) -> None:
    """Arrow's tensors of one dimension give the same predictions."""
    table = rows(6)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(table["embedding"].to_pylist(), np.float32))
    assert_scored(score_file(write(tmp_path / "t.parquet", replace(table, "embedding", tensors))), table)


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
    [("sex", "X"), ("sex", "W"), ("age_years", -1.0), ("age_years", 412.0), ("age_years", np.nan)],
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
    late = [row for batch in score_row_groups(handles, str(tmp_path), PREDICTOR) for row in batch.to_pylist()]
    assert quarantined(late) == [(0, 20, "missing")]


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
        list(
            score_row_groups(
                [{"path": path.name, "row_group": 0, "groups": 1, "rows": 10, "reason": None}], str(tmp_path), PREDICTOR
            )
        )


def test_a_file_that_was_replaced_is_quarantined(tmp_path: Path) -> None:
    """Row groups that the file does not have any more, or that have other rows, are rows of their own, never lost."""
    path = write(tmp_path / "drop.parquet", rows(10))
    handles = [
        {"path": path.name, "row_group": number, "groups": 1, "rows": count, "reason": None}
        for number, count in ((0, 10), (0, 11), (1, 10))
    ]
    found = [row for batch in score_row_groups(handles, str(tmp_path), PREDICTOR) for row in batch.to_pylist()]
    assert len(ok(found)) == 10
    assert quarantined(found) == [(0, 11, "unsound"), (1, 10, "unsound")]
