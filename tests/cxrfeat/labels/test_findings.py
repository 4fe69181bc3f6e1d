"""Text and multi-hot labels are equivalent, and No Finding is all zeros, never a class."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cxrfeat.labels.findings import (
    FINDINGS,
    NO_FINDING,
    any_finding,
    format_findings,
    from_multi_hot,
)
from tests.multi_hot import to_multi_hot

some_findings = st.lists(st.sampled_from(FINDINGS))


def canonical(names: list[str]) -> list[str]:
    return sorted(set(names), key=FINDINGS.index)


def test_the_findings_and_their_order_are_those_of_the_paper() -> None:
    """The order of labels in vectors and bundles never changes."""
    assert "|".join(FINDINGS) == (
        "Atelectasis|Cardiomegaly|Effusion|Infiltration|Mass|Nodule|Pneumonia|Pneumothorax|"
        "Consolidation|Edema|Emphysema|Fibrosis|Pleural_Thickening|Hernia"
    )


@given(some_findings)
def test_what_is_written_is_read_back(names: list[str]) -> None:
    """Text → findings is the inverse of findings → text, up to order and repeats."""
    assert [name for name in format_findings(names).split("|") if name != NO_FINDING] == canonical(names)


@given(some_findings)
def test_writing_does_not_depend_on_order_or_repeats(names: list[str]) -> None:
    """Equal sets of findings are written as equal text."""
    assert format_findings(names) == format_findings(reversed(names + names))


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (["Tuberculosis", "Mass", "edema", "Asthma"], "'Asthma', 'Tuberculosis', 'edema'"),
        ([""], "''"),
        ([NO_FINDING, "Mass"], "'No Finding'"),
    ],
)
def test_writing_an_unknown_name_is_refused(names: list[str], unknown: str) -> None:
    """Unknown names are rejected; the message lists them in alphabetical order."""
    with pytest.raises(ValueError, match=re.escape(f"unknown findings: {unknown}; expected")):
        format_findings(names)


def test_writing_no_finding_as_a_finding_is_refused() -> None:
    """No Finding is not a name in a list of findings: it is the empty list."""
    with pytest.raises(ValueError, match=NO_FINDING):
        format_findings([NO_FINDING])


@given(st.lists(some_findings, max_size=5))
def test_multi_hot_round_trip(rows: list[list[str]]) -> None:
    """Multi-hot → findings is the inverse of findings → multi-hot, up to order and repeats, and for no rows at all."""
    hot = to_multi_hot(rows)
    assert hot.dtype == np.float32
    assert hot.shape == (len(rows), 14)
    assert from_multi_hot(hot) == [canonical(names) for names in rows]


@pytest.mark.parametrize(
    ("hot", "said"),
    [
        (np.zeros(14), "have shape (14,); expected (N, 14)"),
        (np.zeros((2, 13)), "have shape (2, 13); expected (N, 14)"),
        (np.zeros((2, 15)), "have shape (2, 15); expected (N, 14)"),
        (np.zeros((1, 14, 2)), "have shape (1, 14, 2); expected (N, 14)"),
        (np.full((1, 14), 0.5), "other than 0 and 1"),
        (np.full((1, 14), np.nan), "other than 0 and 1"),
        (np.full((1, 14), 2), "other than 0 and 1"),
    ],
)
def test_matrices_that_are_not_multi_hot_are_refused(hot: NDArray[np.generic], said: str) -> None:
    """Probabilities, NaN, and matrices of another shape are not labels."""
    with pytest.raises(ValueError, match=re.escape(said)):
        from_multi_hot(hot)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float64])
def test_any_dtype_of_zeros_and_ones_is_read(dtype: type[np.generic]) -> None:
    """What matters is 0 and 1, not how they are stored."""
    assert from_multi_hot(np.eye(14, dtype=dtype)) == [[name] for name in FINDINGS]


def test_any_finding_is_the_complement_of_none() -> None:
    """1 - the product, in float64 even from float32; certain findings and certain absence are exact."""
    probabilities = np.array([[0.5, 0.5], [0.1, 0.2], [1, 0.3], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(any_finding(probabilities), [0.75, 1 - 0.9 * 0.8, 1, 0], rtol=1e-7)
    assert any_finding(probabilities).dtype == np.float64
