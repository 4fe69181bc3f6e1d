"""The index of foreign tables: what can be understood is, and all else has a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrfeat.errors import FeaturesError
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.labels.label_sets import NIH14
from head_training.features.index import read_index
from head_training.features.matrix import load_features
from tests.head_training.samples import change, random_table, write

ROWS = random_table()


@pytest.mark.parametrize("age", [-1.0, 999.0, np.inf])
def test_impossible_ages_are_missing_and_counted(tmp_path: Path, age: float) -> None:
    """The rule is that of scoring: 0 to 123 years; NaN is missing without being counted."""
    rows = change(change(ROWS, "age_years", 3, age), "age_years", 4, np.nan)
    features = load_features(str(write(rows, tmp_path)), COVARIATES)
    assert features.index.impossible_ages == 1
    assert np.isnan(features.matrix[:, -2]).sum() == 2


@pytest.mark.parametrize("column", ["view_position", "age_years", "sex"])
def test_columns_that_are_not_needed_may_be_absent(tmp_path: Path, column: str) -> None:
    """A table without them has them missing."""
    index = read_index(str(write(ROWS.drop_columns([column]), tmp_path)), NIH14)
    assert index.table[column].null_count == len(index.table)


def test_patients_in_several_spellings_are_refused(tmp_path: Path) -> None:
    """Blanks and leading zeros may hide that two rows are of one patient; the option accepts them as they are."""
    patient = ROWS["patient_id"][0].as_py()
    rows = change(ROWS, "patient_id", 0, f"00{patient} ")
    folder = str(write(change(rows, "patient_id", 1, patient), tmp_path))
    with pytest.raises(FeaturesError, match=rf"1 patients are written in several ways.*'00{patient} '.*as-written"):
        read_index(folder, NIH14)
    assert len(read_index(folder, NIH14, as_written=True).table) == len(ROWS)


def test_what_cannot_be_understood_says_what_to_do(tmp_path: Path) -> None:
    """Findings as text, and a column that is there twice."""
    texts = ROWS.set_column(ROWS.column_names.index("findings"), "findings", pa.array(["Mass|Edema"] * len(ROWS)))
    with pytest.raises(FeaturesError, match=r"findings are string; expected a list of names"):
        read_index(str(write(texts, tmp_path / "text")), NIH14)
    (tmp_path / "twice").mkdir()
    twice = pa.table([*ROWS.columns, ROWS["sex"]], names=[*ROWS.column_names, "sex"])
    pq.write_table(twice, tmp_path / "twice" / "a.parquet")
    with pytest.raises(FeaturesError, match=r"a.parquet has columns that occur more than once: sex"):
        read_index(str(tmp_path / "twice"), NIH14)
