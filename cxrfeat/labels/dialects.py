"""Column maps of published data sets, recognised by the header of their tables.

Sources: ChestX-ray14 (Wang et al., CVPR 2017) and its Kaggle copies; CheXpert (Irvin et al., AAAI 2019); MIMIC-CXR-JPG
(Johnson et al., 2019); PadChest (Bustos et al., 2020); VinDr-CXR (Nguyen et al., 2022); RSNA Pneumonia Detection
Challenge (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrfeat.errors import MetadataError
from cxrfeat.labels.columns import ALL_OTHERS, ColumnMap, LabelColumns, Merge, fold_column
from cxrfeat.labels.findings import FINDINGS

_CHEXPERT_LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
_NIH_IMAGE = "Image Index"
_NIH_SEX = ("Patient Gender", "Patient Sex")


def _nih(name: str) -> ColumnMap:
    return ColumnMap(
        name,
        image=(_NIH_IMAGE,),
        patient=("Patient ID",),
        age=("Patient Age",),
        sex=_NIH_SEX,
        view=("View Position",),
        follow_up=("Follow-up #",),
        labels=LabelColumns(column=("Finding Labels",)),
    )


@dataclass(frozen=True)
class Dialect:
    """A column map and the columns that identify its tables.

    Attributes:
        columns: the map.
        signature: columns that every table of the dialect has; of two dialects that fit, the first one counts.
        min_flags: number of the map's label columns that the table must have.
    """

    columns: ColumnMap
    signature: tuple[str, ...]
    min_flags: int = 0

    def missing(self, header: Sequence[str]) -> list[str]:
        """Return the columns that a header lacks, in the order of the signature."""
        present = set(map(fold_column, header))
        missing = [name for name in self.signature if fold_column(name) not in present]
        flags = self.columns.labels.flags
        absent = [name for name in flags if name != ALL_OTHERS and fold_column(name) not in present]
        if len(flags) - len(absent) < self.min_flags:
            missing += absent
        return missing


DIALECTS: tuple[Dialect, ...] = (
    Dialect(_nih("kaggle-sample"), (_NIH_IMAGE, "Finding Labels", "Patient ID", "OriginalImageWidth")),
    Dialect(_nih("nih-2017"), (_NIH_IMAGE, "Finding Labels", "Patient ID", "")),
    Dialect(_nih("nih-v2020"), (_NIH_IMAGE, "Finding Labels", "Patient ID")),
    Dialect(
        ColumnMap(
            "chexpert",
            image=("Path",),
            age=("Age",),
            sex=("Sex",),
            view=("AP/PA", "Frontal/Lateral"),
            labels=LabelColumns(flags={name: name for name in _CHEXPERT_LABELS}),
            patient_pattern=r"(patient\d+)",
        ),
        ("Path",),
        min_flags=len(_CHEXPERT_LABELS),
    ),
    Dialect(
        ColumnMap(
            "mimic-cxr-jpg",
            image=("dicom_id",),
            patient=("subject_id",),
            view=("ViewPosition",),
            split=("split",),
            labels=LabelColumns(flags={name: name for name in _CHEXPERT_LABELS}),
        ),
        ("dicom_id", "subject_id"),
    ),
    Dialect(
        ColumnMap(
            "padchest",
            image=("ImageID",),
            patient=("PatientID",),
            birth_year=("PatientBirth",),
            study_date=("StudyDate_DICOM",),
            sex=("PatientSex_DICOM",),
            view=("Projection",),
            labels=LabelColumns(column=("Labels",)),
        ),
        ("ImageID", "PatientID", "Labels"),
    ),
    Dialect(
        ColumnMap(
            "vindr-readers",
            image=("image_id",),
            labels=LabelColumns(flags={ALL_OTHERS: ""}, per_line=True, merge=Merge.MAJORITY),
        ),
        ("image_id", "rad_id"),
    ),
    Dialect(
        ColumnMap(
            "rsna-pneumonia",
            image=("patientId",),
            patient=("patientId",),
            labels=LabelColumns(flags={"Target": "Pneumonia"}, per_line=True),
        ),
        ("patientId", "Target"),
    ),
    Dialect(
        ColumnMap(
            "nih-flags",
            image=(_NIH_IMAGE, "image", "image_id", "id", "filename", "file"),
            patient=("Patient ID", "patient_id"),
            age=("Patient Age", "age"),
            sex=(*_NIH_SEX, "sex", "gender"),
            view=("View Position",),
            follow_up=("Follow-up #",),
            labels=LabelColumns(flags={name: name for name in (*FINDINGS, "Pleural Thickening", "No Finding")}),
        ),
        (),
        min_flags=len(FINDINGS),
    ),
    Dialect(
        ColumnMap("vindr", image=("image_id",), labels=LabelColumns(flags={ALL_OTHERS: ""})), ("image_id", "No finding")
    ),
)
"""Known dialects; the more specific one of two is first."""


def recognise(header: Sequence[str], where: str) -> ColumnMap:
    """Return the column map of the first dialect that a header fits.

    Raises:
        MetadataError: no dialect fits; the message shows the header and what the nearest dialect lacks.
    """
    fitting = [dialect for dialect in DIALECTS if not dialect.missing(header) and _has_image(dialect, header)]
    if fitting:
        return fitting[0].columns
    nearest = min(DIALECTS, key=lambda dialect: len(dialect.missing(header)))
    lacks = nearest.missing(header) or nearest.columns.image[:1]
    raise MetadataError(
        f"{where}: unknown columns {', '.join(header)}; the nearest known table is {nearest.columns.name}, which also "
        f"has {', '.join(name or 'a blank column' for name in lacks)}. Describe the columns in a TOML file (--columns)"
    )


def _has_image(dialect: Dialect, header: Sequence[str]) -> bool:
    present = set(map(fold_column, header))
    return any(fold_column(name) in present for name in dialect.columns.image)
