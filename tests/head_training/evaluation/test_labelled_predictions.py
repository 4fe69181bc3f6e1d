"""Tests of reading predictions: tables of any system with any of the usual names, and nothing lost or guessed."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cxrfeat.errors import PredictionsError
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.label_sets import LABEL_SETS, NIH14
from head_training.evaluation.ground_truth import read_ground_truth
from head_training.evaluation.labelled_predictions import (
    PredictionTable,
    join_ground_truth,
    read_predictions,
    splits_from_lists,
)
from tests.head_training.evaluations import Case
from tests.head_training.samples import change


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def renamed(table: pa.Table, prefix: str) -> pa.Table:
    return table.rename_columns([name.replace("score_", prefix) for name in table.column_names])


@pytest.mark.parametrize("prefix", ["score_", "prob_", "probability_", "", "densenet-"])
def test_the_usual_prefixes_are_found(case: Case, prefix: str) -> None:
    """The same numbers in canonical order, whatever the columns' prefix and order."""
    table = renamed(case.table(), prefix)
    shuffled = table.select(table.column_names[::-1])
    found = read_predictions(case.write_predictions(shuffled), NIH14)
    assert found.findings == FINDINGS
    ((scale, values),) = found.scales.items()
    assert scale == (prefix.rstrip("_-") or "score")
    np.testing.assert_array_equal(values, case.scores[:120])


def test_csv_spaces_and_the_header_of_nih_are_understood(case: Case) -> None:
    """CSV, plain and zipped, with ``Image Index`` and ``Pleural Thickening``, equals Parquet."""
    table = renamed(case.table(), "").rename_columns(
        {"image_index": "Image Index", "Pleural_Thickening": "Pleural Thickening"}
    )
    plain, zipped = case.folder / "p.csv", case.folder / "p.csv.gz"
    pyarrow.csv.write_csv(table, plain)
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    expected = read_predictions(case.predictions, NIH14)
    for path in (plain, zipped):
        found = read_predictions(path, NIH14)
        assert found.images.equals(expected.images)
        np.testing.assert_array_equal(found.scales["score"], expected.scales["score"])


def test_calibrated_probabilities_come_first_and_the_scores_beside_them_second(case: Case) -> None:
    """Before and after calibration; --prefix takes one of them alone."""
    table = case.table()
    for name in table.column_names[1:]:
        calibrated = pa.array(table[name].to_numpy() / 2)
        table = table.append_column(name.replace("score_", "probability_"), calibrated)
    path = case.write_predictions(table)
    found = read_predictions(path, NIH14)
    assert list(found.scales) == ["probability", "score"]
    np.testing.assert_array_equal(found.scales["probability"], found.scales["score"] / 2)
    assert list(read_predictions(path, NIH14, "score_").scales) == ["score"]


def test_some_findings_are_enough(case: Case) -> None:
    """A system that knows three findings is read with three."""
    found = read_predictions(
        case.write_predictions(case.table().select(["image_index", "score_Mass", "score_Edema"])), NIH14
    )
    assert found.findings == ("Mass", "Edema")
    np.testing.assert_array_equal(found.scales["score"], case.scores[:120][:, [4, 9]])


@pytest.mark.parametrize(
    ("change_table", "message"),
    [
        (lambda t: t.drop_columns(["image_index"]), "has no column image_index; it has"),
        (lambda t: t.select(["image_index"]), "no column of a label, such as Atelectasis; it has image_index"),
        (lambda t: change(t, "score_Mass", 3, math.nan), r"1 values of 'score_Mass' .* the first: 003\.png: nan"),
        (lambda t: change(t, "score_Mass", 3, None), r"1 values of 'score_Mass' are missing"),
        (lambda t: change(t, "score_Mass", 3, 1.01), r"outside \[0, 1\]; the first: 003\.png: 1\.01"),
        (lambda t: change(t, "score_Mass", 3, -0.01), r"003\.png: -0\.01"),
        (lambda t: change(t, "image_index", 3, "004.png"), "1 images have several rows; the first: 004.png"),
        (lambda t: change(t, "image_index", 3, None), "1 of 120 rows have no image name"),
        (lambda t: t.slice(0, 0), "0 of 0 rows"),
        (lambda t: t.append_column("score_Pleural Thickening", t["score_Mass"]), "are both Pleural_Thickening"),
        (lambda t: t.set_column(1, "score_Atelectasis", pa.array(["x"] * len(t))), "is string; expected numbers"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_trusted_are_refused(case: Case, change_table: object, message: str) -> None:
    """Never a silent drop: the error names the column and the first images."""
    with pytest.raises(PredictionsError, match=message):
        read_predictions(case.write_predictions(change_table(case.table())), NIH14)  # type: ignore[operator]


def test_a_choice_of_prefixes_is_the_users(case: Case) -> None:
    """Two complete prefixes are an error that names both, even if one is plain; an incomplete one is not chosen."""
    table = renamed(case.table(), "pred_")
    columns = {name: table[name] for name in table.column_names}
    incomplete = case.write_predictions(pa.table({**columns, "Mass": table["pred_Mass"]}), "incomplete.parquet")
    assert read_predictions(incomplete, NIH14).findings == FINDINGS
    truth = {name.removeprefix("pred_"): table[name] for name in table.column_names[1:]}
    path = case.write_predictions(pa.table({**columns, **truth}))
    with pytest.raises(PredictionsError, match=r"14 labels with each of the prefixes '', 'pred_'; .* with --prefix"):
        read_predictions(path, NIH14)
    assert read_predictions(path, NIH14, "pred_").findings == FINDINGS
    with pytest.raises(PredictionsError, match="no finding with the prefix 'c_'"):
        read_predictions(path, NIH14, "c_")


def test_decisions_are_told_from_scores(case: Case) -> None:
    """A column of 0 and 1 alone is a hard label."""
    table = case.table()
    decided = table.set_column(table.column_names.index("score_Mass"), "score_Mass", pa.array([1.0, 0.0] * 60))
    assert read_predictions(case.write_predictions(decided), NIH14).hard_labels == ["Mass"]


def test_other_label_sets_and_aliases_are_found(case: Case) -> None:
    """``Pleural Effusion`` is Effusion in NIH's set; a set with one label reads one column."""
    values = pa.array([0.5] * 120)
    table = pa.table({"image_index": case.images[:120], "p Pleural Effusion": values, "p abnormal": values})
    path = case.write_predictions(table)
    assert read_predictions(path, NIH14).findings == ("Effusion",)
    assert read_predictions(path, LABEL_SETS["normal-abnormal"]).findings == ("Abnormal",)


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.txt"])
def test_files_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    """Missing, a folder, empty, or of another kind."""
    path = tmp_path / name
    with pytest.raises(PredictionsError, match="does not exist or is not a file"):
        read_predictions(path, NIH14)
    with pytest.raises(PredictionsError, match=r"is a folder; expected a file\..*pandas\.read_parquet"):
        read_predictions(tmp_path, NIH14)
    path.touch()
    with pytest.raises(PredictionsError, match=r"cannot read|is neither \.parquet nor \.csv"):
        read_predictions(path, NIH14)


def test_rows_are_joined_with_their_ground_truth(case: Case) -> None:
    """Labels, patients and scores of each row are those of its image, whatever the order of either file."""
    order = np.random.default_rng(1).permutation(120)
    predictions = read_predictions(case.write_predictions(case.table().take(order)), NIH14)
    names = case.images
    splits = splits_from_lists(predictions.images, {Split.TEST: names[:90], Split.VAL: names[90:110]})
    assert splits.null_count == 10
    labelled = join_ground_truth(predictions, read_ground_truth(case.ground_truth), splits, {Split.TEST: 95})
    assert {split: len(rows.table) for split, rows in labelled.items()} == {Split.TEST: 90, Split.VAL: 20}
    assert [rows.without_prediction for rows in labelled.values()] == [0, 5]
    for rows in labelled.values():
        places = [names.index(name) for name in rows.table["image_index"].to_pylist()]
        np.testing.assert_array_equal(rows.labels, case.labels[places])
        np.testing.assert_array_equal(rows.scales["score"], case.scores[places])
        np.testing.assert_array_equal(rows.patients, case.patients[places].astype(str))
        np.testing.assert_array_equal(rows.any_finding, case.labels[places].any(axis=1))
        assert rows.known.all()


def test_no_finding_is_none_of_all_fourteen(case: Case) -> None:
    """With one predicted finding, images with other findings are still not normal."""
    predictions = read_predictions(case.write_predictions(case.table().select(["image_index", "score_Mass"])), NIH14)
    rows = join_ground_truth(
        predictions,
        read_ground_truth(case.ground_truth),
        splits_from_lists(predictions.images, {Split.TEST: case.images}),
        {},
    )[Split.TEST]
    assert rows.labels.shape == (120, 1)
    np.testing.assert_array_equal(rows.any_finding, case.labels[:120].any(axis=1))


def test_images_without_ground_truth_are_refused(case: Case) -> None:
    """With their number and names; no image of the test at all is refused too."""
    predictions = read_predictions(case.predictions, NIH14)
    ground_truth = read_ground_truth(case.ground_truth)
    strange = PredictionTable(pa.array(["x.png", *case.images[1:120]]), predictions.findings, predictions.scales, None)
    with pytest.raises(
        PredictionsError, match=r"1 of 120 predicted images are not in the ground truth; the first: x\.png"
    ):
        join_ground_truth(strange, ground_truth, splits_from_lists(strange.images, {Split.TEST: case.images}), {})
    with pytest.raises(PredictionsError, match="none of 120 predictions is in the test split"):
        join_ground_truth(
            predictions, ground_truth, splits_from_lists(predictions.images, {Split.VAL: case.images}), {}
        )


def test_an_image_is_in_the_list_of_one_split() -> None:
    """What is in two is refused by name."""
    with pytest.raises(PredictionsError, match="1 images are in the lists of two splits; the first: a"):
        splits_from_lists(pa.array(["a"]), {Split.TEST: ["a", "b"], Split.VAL: ["a"]})


def test_a_parquet_file_below_a_hive_folder_keeps_its_own_columns(case: Case) -> None:
    """``split=test/`` in the path does not become a column of the table."""
    folder = case.folder / "split=test"
    folder.mkdir()
    pq.write_table(case.table(), folder / "p.parquet")
    assert read_predictions(folder / "p.parquet", NIH14).split is None
