"""Headers: what is stored of them is of known form, whatever they hold."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrfeat.images.dicom_header import TAGS, explain_refusal, read_header
from cxrfeat.images.header import Pseudonyms
from tests.dicom_files import make_dataset

STORED = np.zeros((32, 32), np.int64)


def code(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue = value
    return Sequence([item])


CASES: list[tuple[dict[str, Any], str, object]] = [
    ({"PatientAge": "058Y"}, "age_years", 58.0),
    ({"PatientAge": "006M"}, "age_years", 0.5),
    ({"PatientAge": "000D"}, "age_years", 0.0),
    ({"PatientAge": "58"}, "age_years", 58.0),
    ({"PatientAge": "200Y"}, "age_years", None),
    ({"PatientAge": None}, "age_years", None),
    ({"PatientAge": "", "PatientBirthDate": "19600615", "StudyDate": "20200614"}, "age_years", 59.0),
    ({"PatientAge": "", "PatientBirthDate": "19600615", "StudyDate": "2020.06.15"}, "age_years", 60.0),
    ({"PatientAge": "", "PatientBirthDate": "19601315", "StudyDate": "20200614"}, "age_years", None),
    ({"PatientAge": "", "PatientBirthDate": "20210101", "StudyDate": "20200614"}, "age_years", None),
    ({"PatientSex": "M"}, "sex", "M"),
    ({"PatientSex": "f "}, "sex", "F"),
    ({"PatientSex": "O"}, "sex", None),
    ({"PatientSex": ""}, "sex", None),
    ({"ViewPosition": "ap"}, "view_position", "AP"),
    ({"ViewPosition": "upside down"}, "view_position", None),
    ({"ViewPosition": None, "ViewCodeSequence": code("R-10214")}, "view_position", "PA"),
    ({"ViewPosition": "", "ViewCodeSequence": code("399348003")}, "view_position", "AP"),
    ({"ImageLaterality": "L"}, "laterality", "L"),
    ({"Laterality": "R"}, "laterality", "R"),
    ({"Laterality": "X"}, "laterality", None),
    ({"Modality": "CT"}, "modality", "CT"),
    ({"Modality": "XYZ", "SOPClassUID": "1.2.3"}, "modality", None),
    ({"Modality": ""}, "modality", "DX"),
    ({"Modality": "", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}, "modality", "CR"),
    ({"BodyPartExamined": "thorax"}, "body_part", "CHEST"),
    ({"BodyPartExamined": "KNEE"}, "body_part", "KNEE"),
    ({"BodyPartExamined": "ANYTHING"}, "body_part", "OTHER"),
    ({"BodyPartExamined": ""}, "body_part", None),
    ({"BodyPartExamined": None, "AnatomicRegionSequence": code("51185008")}, "body_part", "CHEST"),
    ({"BodyPartExamined": None, "AnatomicRegionSequence": code("T-D9200")}, "body_part", "OTHER"),
    ({"BodyPartExamined": None, "AnatomicRegionSequence": Sequence([])}, "body_part", None),
    ({"PixelSpacing": [0.14, 0.15]}, "pixel_spacing", (0.14, 0.15)),
    ({"ImagerPixelSpacing": [0.2, 0.2]}, "pixel_spacing", (0.2, 0.2)),
    ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.2]}, "pixel_spacing", (0.1, 0.1)),
    ({"PixelSpacing": [0, 0.1]}, "pixel_spacing", None),
    ({"PixelSpacing": [0.1]}, "pixel_spacing", None),
    ({"PixelSpacing": ""}, "pixel_spacing", None),
    ({}, "patient_id", None),
    ({}, "series_id", None),
]


@pytest.mark.parametrize(("elements", "name", "expected"), CASES)
def test_each_fact_is_read_or_missing(elements: dict[str, Any], name: str, expected: object) -> None:
    """A value of known form is taken, another is missing."""
    with warnings.catch_warnings(action="ignore"):  # pydicom warns about what it is told to write
        dataset = make_dataset(STORED, 8, **elements)
    assert getattr(read_header(dataset, None), name) == expected


def test_identifiers_are_hashed() -> None:
    """With a rule, the patient, the series and the image have names, each of its own kind."""
    pseudonyms = Pseudonyms(bytes(32))
    header = read_header(make_dataset(STORED, 8, PatientID=" P1 "), pseudonyms)
    uid = "1.2.826.0.1.3680043.8.498.1"
    assert header.patient_id == pseudonyms.name_patient("P1")
    assert (header.series_id, header.instance_id) == (pseudonyms.name("series", uid), pseudonyms.name("image", uid))
    assert read_header(make_dataset(STORED, 8, PatientID=""), pseudonyms).patient_id is None


def test_no_name_is_read() -> None:
    """Of the elements that name persons, places and times, two dates are read, for the age."""
    tags = [pydicom.datadict.tag_for_keyword(keyword) for keyword in TAGS]
    assert None not in tags
    assert {keyword for keyword in TAGS if "Date" in keyword} == {"PatientBirthDate", "StudyDate"}
    assert {
        keyword for keyword in TAGS if any(word in keyword for word in ("Name", "Address", "Accession", "Time"))
    } == set()


@given(st.sampled_from(TAGS), st.text(st.characters(codec="latin-1"), max_size=40))
def test_free_text_never_passes(keyword: str, text: str) -> None:
    """Whatever text an element holds, only words of closed lists and hashes come out, and the refusal quotes none."""
    text = f"Zyx{text}"
    dataset = Dataset()
    if pydicom.datadict.dictionary_VR(keyword) in ("SQ", "DS"):
        return
    dataset.add_new(keyword, "LO", text)
    header = read_header(dataset, Pseudonyms(bytes(32)))
    assert "Zyx" not in f"{header}{explain_refusal(dataset, header)}"
