"""Writing a phantom set: images, metadata and split lists in the archive's layout."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from cxrfeat.errors import ConfigError, DatasetMismatchError
from cxrfeat.labels.findings import format_findings
from cxrfeat.phantom.patients import Patient, Study, cohort
from cxrfeat.phantom.radiograph import MIN_SIZE, draw

VERSION = 1
"""Of the drawing; raise it when the same seed would give other pictures."""

PASSPORT = "phantom.json"
"""File that marks a folder as a phantom set and says which one."""

METADATA = "Data_Entry_2017_v2020.csv"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
IMAGES_PER_FOLDER = 5000
TEST_SHARE = 0.2

# Width, height and pixel spacing (mm) of the detectors that the archive has most of.
_DETECTORS = {"PA": "2992,2991,0.143,0.143", "AP": "2500,2048,0.168,0.168"}
_COMPRESSION = 4  # on film grain, higher levels cost time and save nothing


@dataclass(frozen=True)
class ArchiveSummary:
    """What :func:`write_archive` left in the folder.

    Attributes:
        output: the folder.
        images: images in the set.
        drawn: how many of them were drawn now; the others were there.
        patients: patients in the set.
        test_images: images on the test list; the others are on the other list.
    """

    output: Path
    images: int
    drawn: int
    patients: int
    test_images: int

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.images} images of {self.patients} patients "
            f"({self.drawn} drawn now, {self.images - self.drawn} kept), "
            f"{self.images - self.test_images} for train and val, {self.test_images} for test"
        )


@dataclass(frozen=True)
class _Sheet:
    """One image to be written."""

    path: Path
    patient: Patient
    study: Study

    @property
    def row(self) -> str:
        patient, study = self.patient, self.study
        cells = [self.path.name, format_findings(study.findings), study.follow_up, patient.number, study.age]
        return ",".join(map(str, [*cells, patient.sex, study.view, _DETECTORS[study.view]]))


def write_archive(output: Path, count: int, *, seed: int = 0, size: int = 1024, workers: int = 1) -> ArchiveSummary:
    """Write the first ``count`` images of the phantom set with this ``seed``, or grow one to that count.

    Images that are there already are kept as they are. Every file appears whole or not at all.

    Args:
        output: folder to write; made if need be.
        count: images in the set, at least 1.
        seed: which set, at least 0.
        size: pixels a side, at least 64.
        workers: processes that draw, at least 1.

    Returns:
        What is in the folder now.

    Raises:
        ConfigError: an option out of range.
        DatasetMismatchError: a folder with something else in it: other files, a set with another seed,
            size or version, or more images than ``count``.
    """
    for name, value, least in (
        ("count", count, 1),
        ("seed", seed, 0),
        ("size", size, MIN_SIZE),
        ("workers", workers, 1),
    ):
        if value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")
    _claim(output, {"seed": seed, "size": size, "version": VERSION})
    sheets = [
        _Sheet(_image_path(output, index, patient, study), patient, study)
        for index, (patient, study) in enumerate(cohort(seed, count))
    ]
    _refuse_extra_images(output, sheets)
    missing = [sheet for sheet in sheets if not sheet.path.exists()]
    _draw_all(missing, size, workers)
    test = _write_tables(output, sheets)
    return ArchiveSummary(output, count, len(missing), sheets[-1].patient.number, test)


def is_test_patient(number: int) -> bool:
    """Say whether a patient is on the test list: about one in five, whatever the seed and the count."""
    # With this salt even a dozen images have patients on both lists.
    digest = hashlib.sha256(f"phantom split {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64


def _image_path(output: Path, index: int, patient: Patient, study: Study) -> Path:
    folder = f"images_{index // IMAGES_PER_FOLDER + 1:03d}"
    return output / folder / "images" / f"{patient.number:08d}_{study.follow_up:03d}.png"


def _claim(output: Path, passport: dict[str, int]) -> None:
    """Mark the folder as this set, or make sure that it is this set already."""
    path = output / PASSPORT
    if output.exists() and not output.is_dir():
        raise DatasetMismatchError(f"{output} is a file; expected a folder")
    if path.exists():
        found = path.read_text(encoding="utf-8")
        if found != json.dumps(passport):
            raise DatasetMismatchError(f"{output} holds another phantom set: {found}; expected {json.dumps(passport)}")
    elif output.exists() and any(output.iterdir()):
        raise DatasetMismatchError(f"{output} is not empty and no phantom set: it has no {PASSPORT}")
    else:
        output.mkdir(parents=True, exist_ok=True)
        _write_whole(path, json.dumps(passport).encode())


def _refuse_extra_images(output: Path, sheets: list[_Sheet]) -> None:
    extra = set(output.glob("images_*/images/*.png")) - {sheet.path for sheet in sheets}
    if extra:
        raise DatasetMismatchError(
            f"{output} holds {len(extra)} images beyond the {len(sheets)} asked for, such as "
            f"{min(extra).name}; a set can grow but not shrink"
        )


def _draw_all(sheets: list[_Sheet], size: int, workers: int) -> None:
    for folder in {sheet.path.parent for sheet in sheets}:
        folder.mkdir(parents=True, exist_ok=True)
    sizes = [size] * len(sheets)
    with tqdm(total=len(sheets), unit="film", disable=None) as bar, ExitStack() as stack:
        drawn: Iterator[None] = map(_draw_one, sheets, sizes)
        if workers > 1:
            drawn = stack.enter_context(ProcessPoolExecutor(workers)).map(_draw_one, sheets, sizes, chunksize=8)
        for _ in drawn:
            bar.update()


def _draw_one(sheet: _Sheet, size: int) -> None:
    image = Image.fromarray(draw(sheet.patient, sheet.study, size))
    if sheet.study.rgba:
        image = image.convert("RGBA")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_COMPRESSION)
    _write_whole(sheet.path, file.getvalue())


def _write_tables(output: Path, sheets: list[_Sheet]) -> int:
    """Write the lists and the metadata, and return how many images are for test."""
    lists: dict[bool, list[str]] = {False: [], True: []}
    for sheet in sheets:
        lists[is_test_patient(sheet.patient.number)].append(sheet.path.name)
    tables = {
        "train_val_list.txt": lists[False],
        "test_list.txt": lists[True],
        METADATA: [HEADER, *(sheet.row for sheet in sheets)],
    }
    for name, lines in tables.items():
        _write_whole(output / name, "".join(f"{line}\n" for line in lines).encode())
    return len(lists[True])


def _write_whole(path: Path, data: bytes) -> None:
    """Write under a hidden name first, so that a kill never leaves half a file under the real one."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
