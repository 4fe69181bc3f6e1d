"""Read the header of a DICOM file: only the elements listed here, and only values of known form.

Names, dates, accession numbers and institutions are not read into memory, but for the two dates that give an age.

Source: DICOM PS3.3 and PS3.6, 2025.
"""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

from cxrfeat.images.header import Header, Pseudonyms
from cxrfeat.labels.cells import MAX_AGE_YEARS, parse_age

TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyDate",
    "Modality",
    "PresentationIntentType",
    "AnatomicRegionSequence",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "ViewPosition",
    "ViewCodeSequence",
    "Laterality",
    "ImageLaterality",
    "PixelSpacing",
    "ImagerPixelSpacing",
)
"""Keywords of the elements that :func:`read_header` uses."""

RADIOGRAPHS = ("CR", "DX")
"""Modalities of chest radiographs."""

CHEST = "CHEST"

_MODALITY_CODES = """
    AR BMD CR CT DX ECG ES GM HC IO IVUS KO MG MR NM OCT OP OT PR PT PX RF RG RTDOSE RTIMAGE RTPLAN RTSTRUCT SC SEG SM
    SR TG US XA XC"""
_MODALITIES = frozenset(_MODALITY_CODES.split())
_SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
}
_CHEST_WORDS = ("CHEST", "THORAX", "TORAX", "LUNG")
_PART_CODES = """
    ABDOMEN ANKLE ARM BREAST CLAVICLE CSPINE ELBOW EXTREMITY FEMUR FINGER FOOT FOREARM HAND HEAD HIP HUMERUS JAW KNEE
    LEG LSPINE NECK PELVIS RIB SHOULDER SKULL SPINE SSPINE STERNUM TSPINE WRIST"""
_OTHER_PARTS = frozenset(_PART_CODES.split())
_CHEST_CODES = frozenset(("816094009", "51185008", "T-D3000", "39607008", "T-28000"))
_VIEWS = frozenset(["PA", "AP", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "AXIAL", "TANGENTIAL"])
_VIEW_CODES = {
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("272479007", "R-10214"), "PA"),
    **dict.fromkeys(("399173006", "R-10236"), "LL"),
    **dict.fromkeys(("399198007", "R-10232"), "RL"),
    **dict.fromkeys(("399067008",), "LATERAL"),
}
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)", re.ASCII)
_SEXES = frozenset("MF")
_SIDES = frozenset("RLUB")


def read_header(dataset: Any, pseudonyms: Pseudonyms | None) -> Header:
    """Return the facts of a data set.

    Args:
        dataset: pydicom data set with the elements of :data:`TAGS`.
        pseudonyms: rule for identifiers; None leaves them out.
    """
    sop_class = _text(dataset, "SOPClassUID") or _text(getattr(dataset, "file_meta", None), "MediaStorageSOPClassUID")
    patient, series, image = (
        _text(dataset, keyword) for keyword in ("PatientID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    return Header(
        patient_id=pseudonyms.name_patient(patient) if pseudonyms and patient else None,
        age_years=_read_age(dataset),
        sex=_word(dataset, "PatientSex", _SEXES),
        view_position=_word(dataset, "ViewPosition", _VIEWS) or _VIEW_CODES.get(_code(dataset, "ViewCodeSequence")),
        laterality=_word(dataset, "ImageLaterality", _SIDES) or _word(dataset, "Laterality", _SIDES),
        modality=_word(dataset, "Modality", _MODALITIES) or _SOP_CLASSES.get(sop_class),
        body_part=_read_body_part(dataset),
        pixel_spacing=_read_spacing(dataset, "PixelSpacing") or _read_spacing(dataset, "ImagerPixelSpacing"),
        series_id=pseudonyms.name("series", series) if pseudonyms and series else None,
        instance_id=pseudonyms.name("image", image) if pseudonyms and image else None,
    )


def explain_refusal(dataset: Any, header: Header) -> str | None:
    """Return why an image is no chest radiograph, in words of closed lists; None if it is one."""
    if header.modality not in RADIOGRAPHS or header.body_part not in (None, CHEST):
        return (
            f"modality {header.modality or 'unknown'}, body part {header.body_part or 'unknown'}; "
            f"expected {' or '.join(RADIOGRAPHS)} of the chest"
        )
    if _text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING":
        return "raw data of a detector, for processing; expected an image for presentation"
    return None


def _text(dataset: Any, keyword: str) -> str:
    """Return the text of an element, trimmed; empty without one."""
    value = None if dataset is None else dataset.get(keyword)
    return str(value).strip(" \0") if isinstance(value, str | int | float) else ""


def _word(dataset: Any, keyword: str, known: frozenset[str]) -> str | None:
    word = _text(dataset, keyword).upper()
    return word if word in known else None


def _code(dataset: Any, keyword: str) -> str:
    """Return the code value of the first item of a code sequence."""
    items = dataset.get(keyword)
    return _text(items[0], "CodeValue") if items else ""


def _read_body_part(dataset: Any) -> str | None:
    text = _text(dataset, "BodyPartExamined").upper()
    if not text:
        code = _code(dataset, "AnatomicRegionSequence")
        return None if not code else CHEST if code in _CHEST_CODES else "OTHER"
    if any(word in text for word in _CHEST_WORDS):
        return CHEST
    return text if text in _OTHER_PARTS else "OTHER"


def _read_age(dataset: Any) -> float | None:
    """Return the age in years: as it is given, else from the two dates."""
    age = parse_age(_text(dataset, "PatientAge")).value
    if isinstance(age, float):
        return age
    born, studied = (_read_date(dataset, keyword) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or studied is None:
        return None
    years = float(studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day)))
    return years if 0 <= years <= MAX_AGE_YEARS else None


def _read_date(dataset: Any, keyword: str) -> datetime.date | None:
    found = _DATE.fullmatch(_text(dataset, keyword))
    try:
        return datetime.date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _read_spacing(dataset: Any, keyword: str) -> tuple[float, float] | None:
    values = dataset.get(keyword)
    try:
        rows, columns = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (rows, columns) if all(math.isfinite(value) and value > 0 for value in (rows, columns)) else None
