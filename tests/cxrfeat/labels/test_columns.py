"""Columns of the metadata header are found in any order and case; missing ones are named."""

from __future__ import annotations

import pytest

from cxrfeat.errors import MetadataError
from cxrfeat.labels.columns import HEADERS, find_columns, split_fields
from tests.nih_lines import HEADER_2017, HEADER_V2020


@pytest.mark.parametrize("header", [HEADER_2017, HEADER_V2020, HEADER_V2020.upper(), "\ufeff" + HEADER_V2020])
def test_published_headers_are_found(header: str) -> None:
    """In our order, whatever the case and whatever stands before the first name."""
    assert list(find_columns("m.csv", header).items()) == list(zip(HEADERS, (0, 1, 2, 3, 4, 5, 6), strict=True))


def test_columns_are_found_by_name_and_not_by_place() -> None:
    """The other name of sex, another order, blanks, a column of no use; the first of two equal ones counts."""
    header = (
        "View Position, Patient Sex ,extra,Patient Age,Patient ID,Follow-up #,Finding Labels,Image Index,Image Index"
    )
    assert find_columns("m.csv", header) == {
        "image_index": 7, "findings": 6, "follow_up": 5, "patient_id": 4, "age": 3, "sex": 1, "view_position": 0
    }  # fmt: skip


def test_a_header_that_lacks_something_is_refused() -> None:
    """The error gives missing, found and expected columns; an optional column may be missing."""
    short = HEADER_V2020.replace("Follow-up #,", "")
    with pytest.raises(
        MetadataError, match=r"m\.csv lacks the columns Follow-up #; found Image Index, .*expected Image Index, "
    ):
        find_columns("m.csv", short)
    assert "follow_up" not in find_columns("m.csv", short, optional=("follow_up",))
    for sign in (";", "\t"):
        with pytest.raises(MetadataError, match=r"m\.csv uses the separator .*; expected ','"):
            find_columns("m.csv", HEADER_V2020.replace(",", sign))
    for empty in ("", "\ufeff"):
        with pytest.raises(MetadataError, match=r"m\.csv is empty; expected a header with the columns Image Index,"):
            find_columns("m.csv", empty)


def test_a_line_is_split_by_itself() -> None:
    """Quotes hold commas together; one that is never closed ends with its line."""
    assert split_fields('"h,1.png",Mass,') == ["h,1.png", "Mass", ""]
    assert split_fields('a.png,"Mass') == ["a.png", "Mass"]
    assert split_fields("") == []
