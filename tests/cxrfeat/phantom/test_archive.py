"""Phantom sets: reproducible files in the layout of the archive."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrfeat.errors import ConfigError, DatasetMismatchError
from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from cxrfeat.phantom import archive
from cxrfeat.phantom.archive import write_archive
from cxrfeat.phantom.patients import Study, cohort, make_patient, make_studies
from cxrfeat.phantom.radiograph import draw

SIZE = 64
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NORMAL = Study(follow_up=0, age=50, view="PA")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".png")}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a read-only set of 12 images with seed 3."""
    folder = tmp_path_factory.mktemp("phantoms") / "set"
    write_archive(folder, 12, seed=3, size=SIZE)
    return folder


def test_the_same_seed_writes_the_same_bytes_for_any_number_of_workers(phantoms: Path, tmp_path: Path) -> None:
    """A set is reproducible byte for byte, by one process or two."""
    write_archive(tmp_path, 12, seed=3, size=SIZE, workers=2)
    assert contents(tmp_path) == contents(phantoms)


def test_another_seed_draws_other_images(phantoms: Path, tmp_path: Path) -> None:
    """The seed changes every image, not just their order."""
    write_archive(tmp_path, 3, seed=4, size=SIZE)
    assert not set(images(tmp_path).values()) & set(images(phantoms).values())


def test_a_smaller_set_is_a_prefix_of_a_larger_one(phantoms: Path, tmp_path: Path) -> None:
    """Count 5 gives the first five images and rows of count 12."""
    write_archive(tmp_path, 5, seed=3, size=SIZE)
    larger = images(phantoms)
    assert images(tmp_path) == {name: larger[name] for name in sorted(larger)[:5]}
    rows = (phantoms / archive.METADATA).read_text().splitlines()
    assert (tmp_path / archive.METADATA).read_text().splitlines() == rows[:6]


def test_a_patient_does_not_depend_on_the_patients_before() -> None:
    """Patient k does not require patients 1 to k - 1."""
    walked = [(patient, study) for patient, study in cohort(5, 60) if patient.number == 20]
    alone = make_patient(5, 20)
    assert walked == [(alone, study) for study in make_studies(alone)]


def test_metadata_has_the_layout_of_the_archive(phantoms: Path) -> None:
    """Header, file names, labels, ages, sexes and views have the format of the archive."""
    text = (phantoms / archive.METADATA).read_text()
    assert text.splitlines()[0] == HEADER
    rows = list(csv.DictReader(text.splitlines()))
    files = {path.name for path in phantoms.glob("images_001/images/*.png")}
    assert {row["Image Index"] for row in rows} == files
    assert len(rows) == len(files) == 12
    for row in rows:
        assert row["Image Index"] == f"{int(row['Patient ID']):08d}_{int(row['Follow-up #']):03d}.png"
        names = row["Finding Labels"].split("|")
        assert names == [NO_FINDING] or names == [name for name in FINDINGS if name in names]
        assert 18 <= int(row["Patient Age"]) <= 95
        assert row["Patient Gender"] in {"M", "F"}
        assert row["View Position"] in {"PA", "AP"}
        assert int(row["OriginalImage[Width"]) > 0
        assert float(row["y]"]) > 0


def test_a_cohort_has_the_promised_mix() -> None:
    """Half the images are normal, the rest show one to three findings, and no finding is missing."""
    studies = list(cohort(0, 400))
    number = [len(study.findings) for _, study in studies]
    assert 0.4 < number.count(0) / 400 < 0.6
    assert set(number) == {0, 1, 2, 3}
    counts = Counter(finding for _, study in studies for finding in study.findings)
    assert set(counts) == set(FINDINGS)
    assert min(counts.values()) >= 4
    assert 0.005 < np.mean([study.rgba for _, study in cohort(0, 2000)]) < 0.04


def test_patients_have_follow_ups() -> None:
    """A patient has one to five studies, two on average, with ages in order."""
    patients = [make_patient(0, number) for number in range(1, 301)]
    studies = [make_studies(patient) for patient in patients]
    lengths = [len(series) for series in studies]
    assert {1, 2, 3, 4, 5} == set(lengths)
    assert 1.8 < np.mean(lengths) < 2.2
    for series in studies:
        assert [study.follow_up for study in series] == list(range(len(series)))
        assert sorted(study.age for study in series) == [study.age for study in series]


def test_images_of_one_patient_are_more_alike_than_those_of_two() -> None:
    """The anatomy stays from study to study while pose and exposure vary."""
    first, second = (
        [draw(make_patient(0, number), replace(NORMAL, follow_up=visit), SIZE).ravel() for number in range(1, 9)]
        for visit in (0, 1)
    )
    correlation = np.corrcoef(first, second)[:8, 8:]
    same, others = correlation.diagonal(), correlation[~np.eye(8, dtype=bool)]
    assert same.mean() > others.mean() + 0.02
    assert same.max() < 0.999


@pytest.mark.parametrize("change", [{"view": "AP"}, {"age": 85}])
def test_view_and_age_are_visible(change: dict[str, str | int]) -> None:
    """The same patient looks different in the other view and at another age."""
    patient = make_patient(0, 1)
    other = replace(NORMAL, **change)  # type: ignore[arg-type]
    assert np.abs(draw(patient, other, SIZE).astype(float) - draw(patient, NORMAL, SIZE)).mean() > 0.5


def test_women_have_a_breast_shadow() -> None:
    """A change of sex alone brightens the lower chest."""
    man = replace(make_patient(0, 1), sex="M")
    woman = replace(man, sex="F")
    brighter = draw(woman, NORMAL, SIZE).astype(float) - draw(man, NORMAL, SIZE)
    assert brighter[40:52, 12:24].mean() > 3


def test_a_few_files_are_rgba_and_the_others_gray(tmp_path: Path) -> None:
    """Studies marked as RGBA are opaque with the gray value repeated, the others are 8-bit gray."""
    seed = next(seed for seed in range(100) if any(study.rgba for _, study in cohort(seed, 5)))
    write_archive(tmp_path, 5, seed=seed, size=SIZE)
    for (_, study), path in zip(cohort(seed, 5), sorted(tmp_path.rglob("*.png")), strict=True):
        with Image.open(path) as image:
            assert image.mode == ("RGBA" if study.rgba else "L")
            assert image.size == (SIZE, SIZE)
            bands = np.atleast_3d(np.asarray(image))
        assert (bands[..., :3] == bands[..., :1]).all()
        assert (bands[..., 3:] == 255).all()


def test_the_lists_split_by_patient(phantoms: Path) -> None:
    """Each image is on one list, and all images of a patient are on the same one."""
    train_val, test = ((phantoms / name).read_text().splitlines() for name in ("train_val_list.txt", "test_list.txt"))
    assert sorted(train_val + test) == sorted(Path(name).name for name in images(phantoms))
    assert not {name[:8] for name in train_val} & {name[:8] for name in test}
    assert train_val
    assert test
    assert {name[:8] for name in test} == {
        f"{patient.number:08d}" for patient, _ in cohort(3, 12) if archive.is_test_patient(patient.number)
    }


def test_a_fifth_of_the_patients_is_on_the_test_list() -> None:
    """The hash that assigns patients is uniform."""
    assert 0.18 < np.mean([archive.is_test_patient(number) for number in range(1, 5001)]) < 0.22


def test_extending_a_set_draws_only_missing_images(tmp_path: Path) -> None:
    """A larger count also restores a deleted image and changes no existing one."""
    write_archive(tmp_path, 4, seed=1, size=SIZE)
    before = {path: path.stat() for path in tmp_path.rglob("*.png")}
    deleted = min(before)
    data = deleted.read_bytes()
    deleted.unlink()
    summary = write_archive(tmp_path, 7, seed=1, size=SIZE)
    assert (summary.images, summary.drawn) == (7, 4)
    assert deleted.read_bytes() == data
    for path in set(before) - {deleted}:
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (
            before[path].st_ino,
            before[path].st_mtime_ns,
        )
    write_archive(tmp_path / "fresh", 7, seed=1, size=SIZE)
    fresh = contents(tmp_path / "fresh")
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith("fresh")} == fresh


def test_an_interrupted_run_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file with a final name is complete, and the next run finishes the set."""

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt(f"before {self} became {target}")

    write_archive(tmp_path, 1, size=SIZE)
    whole = contents(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write_archive(tmp_path, 3, size=SIZE)
    assert {name: data for name, data in contents(tmp_path).items() if not Path(name).name.startswith(".")} == whole
    write_archive(tmp_path, 3, size=SIZE)
    assert not list(tmp_path.rglob(".*"))
    assert len(images(tmp_path)) == 3


def test_folders_hold_a_bounded_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images continue in images_002 when images_001 is full."""
    monkeypatch.setattr(archive, "IMAGES_PER_FOLDER", 2)
    write_archive(tmp_path, 5, size=SIZE)
    assert Counter(Path(name).parts[0] for name in images(tmp_path)) == {
        "images_001": 2,
        "images_002": 2,
        "images_003": 1,
    }


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """Other files are neither overwritten nor mixed with a set."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetMismatchError, match=r"not empty.*phantom\.json"):
        write_archive(tmp_path, 1, size=SIZE)
    with pytest.raises(DatasetMismatchError, match="is a file"):
        write_archive(tmp_path / "thesis.txt", 1, size=SIZE)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    ("count", "seed", "size", "message"),
    [
        (12, 8, SIZE, '"seed": 3'),
        (12, 3, SIZE + 1, f'"size": {SIZE}'),
        (11, 3, SIZE, "contains 1 images beyond the 11 requested"),
    ],
)
def test_another_set_is_refused(phantoms: Path, count: int, seed: int, size: int, message: str) -> None:
    """A set with another seed or size, or a larger one, is not mixed with this one."""
    before = contents(phantoms)
    with pytest.raises(DatasetMismatchError, match=message):
        write_archive(phantoms, count, seed=seed, size=size)
    assert contents(phantoms) == before


@pytest.mark.parametrize("option", [{"count": 0}, {"seed": -1}, {"size": 63}, {"workers": 0}])
def test_options_out_of_range_are_refused_before_anything_is_written(option: dict[str, int], tmp_path: Path) -> None:
    """The message names the option, the minimum and the actual value."""
    ((name, value),) = option.items()
    with pytest.raises(ConfigError, match=rf"{name}: expected at least \d+, got {value}"):
        write_archive(tmp_path / "set", **{"count": 1, "size": SIZE, **option})
    assert not (tmp_path / "set").exists()


def test_invalid_patients_studies_and_sizes_are_refused() -> None:
    """The drawing functions check their arguments."""
    with pytest.raises(ValueError, match="Broken Heart"):
        replace(NORMAL, findings=("Broken Heart",))
    with pytest.raises(ValueError, match="seed and patient number are 0 and 0"):
        make_patient(0, 0)
    with pytest.raises(ValueError, match="size is 63; expected at least 64 pixels"):
        draw(make_patient(0, 1), NORMAL, 63)


@pytest.mark.parametrize("size", [64, 101, 600])
def test_an_image_has_the_requested_size_and_the_tones_of_a_chest(size: int) -> None:
    """Air beside the neck is black, lungs are dark, the abdomen is bright."""
    image = draw(make_patient(0, 1), NORMAL, size)
    assert image.shape == (size, size)
    assert image.dtype == np.uint8
    part = size // 16
    lung, abdomen = (image[row * part :, 4 * part : 5 * part][:part].mean() for row in (6, 15))
    assert image[:part, :part].mean() < 60
    assert lung < 165 < 200 < abdomen


def test_full_size_files_are_as_large_as_those_of_the_archive(tmp_path: Path) -> None:
    """The noise is tuned so that a 1024 x 1024 file takes 300 to 500 kB."""
    write_archive(tmp_path, 1, seed=0)
    (path,) = tmp_path.rglob("*.png")
    assert 300_000 < path.stat().st_size < 500_000
