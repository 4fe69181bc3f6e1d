"""Splits in Spark SQL: the same as the Python rules, and no patient in two of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from cxrfeat.errors import ConfigError, MetadataError
from cxrfeat.labels import splits
from cxrfeat.labels.splits import SplitLevel, SplitRule, check_no_patient_in_two_splits
from cxrfeat.spark.split_columns import assign_splits

Images = list[tuple[str, str]]


def assign(spark: SparkSession, images: Images, rule: SplitRule) -> dict[str, tuple[str, str]]:
    frame = spark.createDataFrame(images, "image_index STRING, patient_id STRING")
    return {row.image_index: (row.patient_id, row.split) for row in assign_splits(spark, frame, rule).collect()}


def official(folder: Path, train_val: list[str], test: list[str]) -> SplitRule:
    (folder / "train_val.txt").write_text("\n".join(train_val))  # NIH's lists end without a newline
    (folder / "test.txt").write_text("\n".join(test))
    return SplitRule(train_val_list=str(folder / "train_val.txt"), test_list=str(folder / "test.txt"))


@settings(max_examples=5)
@given(
    patients=st.lists(st.text(min_size=1).filter(lambda text: "\x00" not in text), unique=True, min_size=1, max_size=40)
)
def test_hash_is_the_python_rule(spark: SparkSession, patients: list[str]) -> None:
    """For any patient name Spark and Python give the same split, and all the patient's images are in it."""
    images = [(f"{number}_{index}.png", patient) for number, patient in enumerate(patients) for index in range(2)]
    assigned = assign(spark, images, SplitRule())
    assert all(split == splits.split_by_hash(patient) for patient, split in assigned.values())
    check_no_patient_in_two_splits(assigned.values())


def test_image_level_goes_by_image(spark: SparkSession) -> None:
    """At image level the image decides, so a patient with many images is in several splits, which is a leak."""
    assigned = assign(spark, [(f"{index}.png", "one") for index in range(60)], SplitRule(SplitLevel.IMAGE))
    assert {name: split for name, (_, split) in assigned.items()} == {
        name: splits.split_by_hash(name) for name in assigned
    }
    assert len({split for _, split in assigned.values()}) == 3


def test_official_lists_decide(spark: SparkSession, tmp_path: Path) -> None:
    """Listed patients go where the lists say, an unlisted image goes with its patient, an unlisted patient by hash."""
    images = [(f"{patient}_{index}.png", f"{patient}") for patient in range(200) for index in range(3)]
    listed = [(name, patient) for name, patient in images if int(patient) < 150 and not name.endswith("_2.png")]
    rule = official(
        tmp_path,
        [name for name, patient in listed if int(patient) % 4],
        [name for name, patient in listed if not int(patient) % 4],
    )
    for patient, split in assign(spark, images, rule).values():
        number = int(patient)
        if number >= 150:
            assert split == splits.split_by_hash(patient)
        elif number % 4:
            assert split == splits.split_train_val(patient)
        else:
            assert split == "test"


def test_more_images_move_no_patient(spark: SparkSession, tmp_path: Path) -> None:
    """New images of old and new patients leave every assignment as it was."""
    images = [(f"{patient}_0.png", f"{patient}") for patient in range(100)]
    rule = official(tmp_path, [name for name, _ in images[:50]], [name for name, _ in images[50:80]])
    more = [(f"{patient}_1.png", f"{patient}") for patient in range(150)]
    for chosen in (rule, SplitRule()):
        before, after = assign(spark, images, chosen), assign(spark, images + more, chosen)
        assert {name: after[name] for name in before} == before


def test_lists_that_share_a_patient_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    """A patient with images in both lists is an error that names the patient."""
    rule = official(tmp_path, ["a_0.png", "b_0.png"], ["a_1.png"])
    with pytest.raises(MetadataError, match=r"1 patients have images in both .* The first: a$"):
        assign(spark, [("a_0.png", "a"), ("a_1.png", "a"), ("b_0.png", "b")], rule)


def test_an_empty_list_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """A list without names is an error, not a split without test images."""
    with pytest.raises(MetadataError, match=r"test\.txt is empty; expected one file name per line"):
        assign(spark, [("a.png", "a")], official(tmp_path, ["a.png"], []))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_val_list": "a"}, "only one official list is given"),
        ({"test_list": "a"}, "only one official list is given"),
        ({"train_val_list": "a", "test_list": "b", "level": SplitLevel.IMAGE}, "official lists split by patient"),
    ],
)
def test_rules_that_contradict_themselves(arguments: dict[str, str], message: str) -> None:
    """Half a pair of lists, or lists at image level, are errors before anything runs."""
    with pytest.raises(ConfigError, match=message):
        SplitRule(**arguments)  # type: ignore[arg-type]
