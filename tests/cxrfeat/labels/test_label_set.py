"""Label sets: from the names of a table to the targets of a head."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.errors import ConfigError
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.label_set import ANY_NAME, Blank, LabelSet, Targets, Uncertain
from cxrfeat.labels.label_sets import LABEL_SETS, NIH14, load_label_set
from tests.multi_hot import to_multi_hot

Names = list[str] | None


def targets(label_set: LabelSet, positive: Names, unknown: Names = None, uncertain: Names = None) -> str:
    """Return the targets of one image: 1, 0 or ? for each output."""
    columns = [pa.chunked_array([pa.array([names], pa.list_(pa.string()))]) for names in (positive, unknown, uncertain)]
    found = label_set.targets(*columns)
    return "".join(
        str(int(label)) if known else "?" for label, known in zip(found.labels[0], found.known[0], strict=True)
    )


TWO = LabelSet("two", ("Mass", "Edema"), {"Edema": ("Oedema",)}, negative="No Finding")
MERGED = LabelSet("merged", ("Opacity", "Mass"), merges={"Opacity": ("Pneumonia", "Consolidation")})
ANY = LabelSet("any", ("Abnormal",), {"Normal": ("No Finding",)}, {"Abnormal": (ANY_NAME,)}, negative="Normal")
WITH_NEGATIVE = LabelSet("with", ("Mass", "Edema"), negative="No Finding", negative_output=True)


def with_rules(label_set: LabelSet, uncertain: str, blank: str) -> LabelSet:
    return LabelSet.from_json({**label_set.describe(), "uncertain": uncertain, "blank": blank}, "test")


@pytest.mark.parametrize(
    ("label_set", "positive", "unknown", "uncertain", "expected"),
    [
        (TWO, ["Mass"], [], [], "10"),
        (TWO, [], [], [], "00"),
        (TWO, None, None, None, "??"),
        (TWO, [" oedema "], [], [], "01"),
        (TWO, ["Fracture"], [], [], "00"),
        (TWO, [], ["Mass"], [], "00"),
        (TWO, [], ["Mass"], ["Mass"], "?0"),
        (TWO, ["Mass"], ["Mass"], ["Mass"], "10"),
        (TWO, ["MASS"], ["Oedema"], ["Oedema"], "1?"),
        (with_rules(TWO, "positive", "negative"), [], ["Mass", "Edema"], ["Mass"], "10"),
        (with_rules(TWO, "negative", "negative"), [], ["Mass", "Edema"], ["Mass"], "00"),
        (with_rules(TWO, "negative", "missing"), [], ["Mass", "Edema"], ["Mass"], "0?"),
        (with_rules(TWO, "missing", "missing"), ["Edema"], ["Mass"], [], "?1"),
        (MERGED, ["pneumonia"], [], [], "10"),
        (MERGED, [], ["Pneumonia"], ["Pneumonia"], "?0"),
        (MERGED, ["Consolidation"], ["Pneumonia"], ["Pneumonia"], "10"),
        (with_rules(MERGED, "missing", "missing"), [], ["Consolidation", "Mass"], ["Mass"], "??"),
        (ANY, ["Zebra"], [], [], "1"),
        (ANY, ["normal"], [], [], "0"),
        (ANY, ["No Finding"], [], [], "0"),
        (ANY, [], [], [], "0"),
        (WITH_NEGATIVE, [], None, None, "001"),
        (WITH_NEGATIVE, ["Mass"], None, None, "100"),
        (WITH_NEGATIVE, ["Fracture"], None, None, "000"),
        (WITH_NEGATIVE, [], [], [], "000"),
        (WITH_NEGATIVE, ["No Finding"], ["Mass", "Edema"], [], "001"),
        (WITH_NEGATIVE, [], ["Mass"], ["Mass"], "?00"),
        (WITH_NEGATIVE, [], ["No Finding"], ["No Finding"], "00?"),
        (WITH_NEGATIVE, ["Edema"], ["Mass"], ["Mass"], "?10"),
        (WITH_NEGATIVE, [], ["No Finding"], [], "000"),
    ],
)
def test_names_become_targets(
    label_set: LabelSet, positive: Names, unknown: Names, uncertain: Names, expected: str
) -> None:
    """Positive beats unknown, unknown beats negative, and the rules decide what uncertain and blank mean."""
    assert targets(label_set, positive, unknown, uncertain) == expected


@given(st.lists(st.lists(st.sampled_from(FINDINGS), unique=True), min_size=1, max_size=20))
def test_nih14_is_the_multi_hot_encoding(findings: list[list[str]]) -> None:
    """The default set gives the labels of the first version, all known."""
    found = NIH14.targets(pa.chunked_array([pa.array(findings, pa.list_(pa.string()))]))
    assert np.array_equal(found.labels, to_multi_hot(findings))
    assert found.known.all()


@given(st.data())
def test_a_row_does_not_depend_on_the_others(data: st.DataObject) -> None:
    """The targets of many images are those of each alone, in any chunks."""
    label_set = data.draw(st.sampled_from(list(LABEL_SETS.values())))
    names = st.one_of(
        st.none(),
        st.lists(st.sampled_from([*label_set.outputs, "No Finding", "Zebra", "Mass"]), max_size=4, unique=True),
    )
    rows = data.draw(st.lists(st.tuples(names, names), min_size=1, max_size=8))

    def columns(part: list[tuple[Names, Names]]) -> list[pa.ChunkedArray]:
        kind = pa.list_(pa.string())
        return [pa.chunked_array([pa.array([value], kind) for value in column]) for column in zip(*part, strict=True)]

    whole = label_set.targets(*columns(rows))
    alone = [label_set.targets(*columns([row])) for row in rows]
    for name in ("labels", "known"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(one, name) for one in alone]))


def test_no_images_have_no_targets() -> None:
    """An empty table gives an empty matrix of the right width."""
    found: Targets = TWO.targets(pa.chunked_array([pa.array([], pa.list_(pa.string()))]))
    assert found.labels.shape == found.known.shape == (0, 2)


@pytest.mark.parametrize("label_set", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_set_is_read_back(label_set: LabelSet, tmp_path: Path) -> None:
    """Every built-in set survives JSON, and is found by its name."""
    assert LabelSet.from_json(label_set.describe(), "test") == label_set
    assert load_label_set(label_set.name) is label_set
    assert pickle.loads(pickle.dumps(label_set)) == label_set


def test_built_in_sets_have_the_published_sizes() -> None:
    """One, five, eleven, fourteen and fifteen outputs."""
    assert {name: len(found.outputs) for name, found in LABEL_SETS.items()} == {
        "nih14": 14, "nih14+no-finding": 15, "nih-merged": 11, "normal-abnormal": 1, "chexpert": 14, "chexpert5": 5,
    }  # fmt: skip


def test_a_set_of_ones_own(tmp_path: Path) -> None:
    """A TOML file makes a set with the name of the file."""
    file = tmp_path / "mine.toml"
    file.write_text('labels = ["A", "B"]\nblank = "missing"\n[aliases]\nA = ["a a"]\n[merges]\nB = ["C"]\n')
    found = load_label_set(str(file))
    assert (found.name, found.outputs, found.blank) == ("mine", ("A", "B"), Blank.MISSING)
    assert found.uncertain == Uncertain.MISSING
    assert targets(found, ["A_A", "C"], [], []) == "11"


INVALID: list[tuple[Any, str]] = [
    ([], "expected a table"),
    ({}, "no labels"),
    ({"labels": []}, "0 labels; expected 1 to 512"),
    ({"labels": "Mass"}, "labels is 'Mass'; expected a list of texts"),
    ({"labels": ["A", 1]}, "expected a list of texts"),
    ({"labels": ["A", "A"]}, "a label occurs twice"),
    ({"labels": ["A", "a"]}, "'a' stands for A and for a"),
    ({"labels": [" "]}, "expected printable letters"),
    ({"labels": ["A\n"]}, "expected printable letters"),
    ({"labels": ["A", "macro"]}, "the label macro, which is the name of an average"),
    ({"labels": ["any_finding"]}, "the label any_finding, which is"),
    ({"labels": [], "negative": "N", "negative_output": True}, "no label beside the negative name"),
    ({"labels": ["A"], "label": 1}, "unknown keys label"),
    ({"labels": ["A"], "aliases": {"B": ["b"]}}, "aliases of B; known labels are A"),
    ({"labels": ["A"], "merges": {"B": ["b"]}}, "merges of B; known labels are A"),
    ({"labels": ["A", "B"], "aliases": {"A": ["b"]}}, "stands for A and for B"),
    ({"labels": ["A"], "aliases": ["b"]}, "expected a table of label"),
    ({"labels": ["A"], "negative_output": True}, "negative_output without a negative name"),
    ({"labels": ["A"], "negative_output": 1}, "negative_output is 1; expected true or false"),
    ({"labels": ["A"], "negative": 1}, "name and negative must be texts"),
    ({"labels": ["A"], "blank": "positive"}, "blank is 'positive'; expected one of negative, missing"),
    ({"labels": ["A"], "uncertain": 3}, "uncertain is 3; expected one of missing, positive, negative"),
]


@pytest.mark.parametrize(("values", "message"), INVALID)
def test_invalid_sets_are_refused(values: Any, message: str) -> None:
    """The error names the key, the value and what was expected."""
    with pytest.raises(ConfigError, match=message):
        LabelSet.from_json(values, "test")


def test_unknown_sets_and_files_are_refused(tmp_path: Path) -> None:
    """The error lists the known sets; a broken file is named."""
    with pytest.raises(ConfigError, match=r"unknown label set 'nih'; known are nih14, .* or a \.toml file"):
        load_label_set("nih")
    with pytest.raises(ConfigError, match="does not exist"):
        load_label_set(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("labels = [")
    with pytest.raises(ConfigError, match="cannot read the label set"):
        load_label_set(str(tmp_path / "bad.toml"))
