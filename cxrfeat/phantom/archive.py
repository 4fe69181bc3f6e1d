"""Writer of phantom sets: images, metadata and split lists in the layout of the archive."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from cxrfeat.errors import ConfigError, DatasetMismatchError
from cxrfeat.labels.findings import format_findings
from cxrfeat.phantom.patients import Patient, Study, cohort
from cxrfeat.phantom.radiograph import MIN_SIZE, draw

VERSION = 1
"""Version of the drawing; increase it when the same seed gives other images."""

IDENTITY_FILE = "phantom.json"
"""File that identifies a folder as a phantom set, with seed, size and version."""

METADATA = "Data_Entry_2017_v2020.csv"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
IMAGES_PER_FOLDER = 5000
TEST_SHARE = 0.2

# Width, height and pixel spacing (mm) of the most frequent detectors in the archive.
_DETECTORS = {"PA": "2992,2991,0.143,0.143", "AP": "2500,2048,0.168,0.168"}
_COMPRESSION = 4  # higher levels take longer and save nothing on noise


class ArchiveSummary(NamedTuple):
    """Content of a folder after :func:`write_archive`."""

    output: Path
    images: int  # images in the set
    drawn: int  # images drawn by this call; the others existed
    patients: int
    test_images: int  # images on the test list; the others are on the other list

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.images} images of {self.patients} patients "
            f"({self.drawn} drawn now, {self.images - self.drawn} kept), "
            f"{self.images - self.test_images} for train and val, {self.test_images} for test"
        )


class _Entry(NamedTuple):
    """One image of the set."""

    path: Path
    patient: Patient
    study: Study


def write_archive(output: Path, count: int, *, seed: int = 0, size: int = 1024, workers: int = 1) -> ArchiveSummary:
    """Write the first ``count`` images of a phantom set, or extend an existing set to that count.

    Existing images are kept. Every file is written atomically.

    Args:
        output: folder of the set, created if missing.
        count: images in the set, at least 1.
        seed: seed of the set, at least 0.
        size: pixels per side, at least 64.
        workers: drawing processes, at least 1.

    Raises:
        ConfigError: an option is out of range.
        DatasetMismatchError: the folder contains other files, a set with another seed, size or version, or more than
            ``count`` images.
    """
    for name, value, least in (
        ("count", count, 1),
        ("seed", seed, 0),
        ("size", size, MIN_SIZE),
        ("workers", workers, 1),
    ):
        if value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")
    _prepare_folder(output, json.dumps({"seed": seed, "size": size, "version": VERSION}))
    entries = []
    for index, (patient, study) in enumerate(cohort(seed, count)):
        folder = output / f"images_{index // IMAGES_PER_FOLDER + 1:03d}" / "images"
        entries.append(_Entry(folder / f"{patient.number:08d}_{study.follow_up:03d}.png", patient, study))
    extra = set(output.glob("images_*/images/*.png")).difference(entry.path for entry in entries)
    if extra:
        raise DatasetMismatchError(
            f"{output} contains {len(extra)} images beyond the {count} requested, such as {min(extra).name}; "
            "a set can grow but not shrink"
        )
    missing = [entry for entry in entries if not entry.path.exists()]
    _draw_all(missing, size, workers)
    test_images = _write_tables(output, entries)
    return ArchiveSummary(output, count, len(missing), entries[-1].patient.number, test_images)


def is_test_patient(number: int) -> bool:
    """Return True for about one patient in five, independent of seed and count."""
    # With this salt, both lists have patients from a dozen images on.
    digest = hashlib.sha256(f"phantom split {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64


def _prepare_folder(output: Path, passport: str) -> None:
    """Create the folder of a set, or check that it contains this set."""
    path = output / IDENTITY_FILE
    if output.exists() and not output.is_dir():
        raise DatasetMismatchError(f"{output} is a file; expected a folder")
    if path.exists():
        found = path.read_text(encoding="utf-8")
        if found != passport:
            raise DatasetMismatchError(f"{output} contains another phantom set: {found}; expected {passport}")
    elif output.exists() and any(output.iterdir()):
        raise DatasetMismatchError(f"{output} is not empty and not a phantom set: {IDENTITY_FILE} is missing")
    else:
        output.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, passport.encode())


def _draw_all(entries: list[_Entry], size: int, workers: int) -> None:
    for folder in {entry.path.parent for entry in entries}:
        folder.mkdir(parents=True, exist_ok=True)
    sizes = [size] * len(entries)
    with ExitStack() as stack:
        drawn: Iterator[None] = map(_draw_one, entries, sizes)
        if workers > 1:
            drawn = stack.enter_context(ProcessPoolExecutor(workers)).map(_draw_one, entries, sizes, chunksize=8)
        for _ in tqdm(drawn, total=len(entries), unit="image", disable=None):
            pass


def _draw_one(entry: _Entry, size: int) -> None:
    image = Image.fromarray(draw(entry.patient, entry.study, size))
    file = io.BytesIO()
    (image.convert("RGBA") if entry.study.rgba else image).save(file, "PNG", compress_level=_COMPRESSION)
    _write_atomically(entry.path, file.getvalue())


def _write_tables(output: Path, entries: list[_Entry]) -> int:
    """Write the split lists and the metadata; return the number of test images."""
    lists: dict[bool, list[str]] = {False: [], True: []}
    rows = [HEADER]
    for path, patient, study in entries:
        lists[is_test_patient(patient.number)].append(path.name)
        cells = (path.name, format_findings(study.findings), study.follow_up, patient.number, study.age)
        rows.append(",".join(map(str, (*cells, patient.sex, study.view, _DETECTORS[study.view]))))
    tables = {"train_val_list.txt": lists[False], "test_list.txt": lists[True], METADATA: rows}
    for name, lines in tables.items():
        _write_atomically(output / name, "".join(f"{line}\n" for line in lines).encode())
    return len(lists[True])


def _write_atomically(path: Path, data: bytes) -> None:
    """Write to a hidden file and rename it, so that an interrupted write leaves no partial file."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
