"""The data section: every number is a count of the file, and unusual files break nothing."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrfeat.errors import MetadataError
from cxrfeat.labels.findings import FINDINGS, NO_FINDING, format_findings, from_multi_hot
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import LABEL_SETS, NIH14
from head_training.report.cohort_section import data_section
from head_training.report.correlation import correlate, strongest_pair
from head_training.report.page import Plot, Section, Table
from head_training.report.report_images import ReportImages, read_report_images
from head_training.report.style import count, percent
from tests.nih_lines import HEADER_SHORT


def cohort(labels: list[str | None], *, label_set: LabelSet = NIH14, **columns: list[object]) -> ReportImages:
    """Return images of one patient each, with default columns unless given; labels are ``A|B``, No Finding or None."""
    size = len(labels)
    images = pd.DataFrame(
        {
            "image_index": [f"{row}.png" for row in range(size)],
            "patient_id": [str(row) for row in range(size)],
            "age_years": pd.array([50.0] * size, "Float32"),
            "sex": ["M"] * size,
            "view_position": ["PA"] * size,
            **columns,
        }
    )
    names = [None if label is None else [name for name in label.split("|") if name != NO_FINDING] for label in labels]
    matrix = label_set.targets(pa.chunked_array([pa.array(names, pa.list_(pa.string()))])).with_nan()
    rejected = pd.DataFrame(columns=["number", "reason", "message"])
    return ReportImages(images, matrix, label_set, pd.Series(["train"] * size), "protocol", "source", rejected)


def table(section: Section, title: str) -> Table:
    (found,) = [block for block in section.blocks if isinstance(block, Table) and title in block.title]
    return found


@pytest.fixture(scope="module")
def published(shared: Path) -> ReportImages:
    names = ("Data_Entry_2017_v2020.csv.gz", "train_val_list.txt", "test_list.txt")
    metadata, *lists = (str(shared / "nih" / name) for name in names)
    return read_report_images([metadata], *lists)


def titles(section: Section) -> list[str]:
    return [block.title for block in section.blocks]


@pytest.mark.shared
def test_every_count_is_that_of_the_file(shared: Path, published: ReportImages) -> None:
    """Facts, findings and splits of the full v2020 file against a direct count of its lines and of the lists."""
    path = shared / "nih" / "Data_Entry_2017_v2020.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    section = data_section(published)
    patients = {row["Patient ID"] for row in rows}
    assert section.facts[:2] == [(count(len(rows)), "images"), (count(len(patients)), "patients")]
    assert "All 112,120 metadata lines are used; none was rejected." in section.lead
    tested = set((shared / "nih" / "test_list.txt").read_text().split())
    found = {line[0]: line[1:] for line in table(section, "with each finding").rows}
    for label in (*FINDINGS, NO_FINDING):
        having = [row for row in rows if label in row["Finding Labels"].split("|")]
        share, images, alone, patients_with_label, *splits = found[label.replace("_", " ")]
        assert share == percent(len(having) / len(rows))
        assert images == count(len(having))
        assert alone == count(sum(row["Finding Labels"] == label for row in having))
        assert patients_with_label == count(len({row["Patient ID"] for row in having}))
        numbers = [int(number.replace(",", "")) for number in splits]
        assert sum(numbers) == len(having)
        assert numbers[2] == sum(row["Image Index"] in tested for row in having)
    images_of = {line[0]: line[1] for line in table(section, "in the test set").rows}
    assert images_of == {"train": "76,193", "val": "10,331", "test": "25,596"}
    assert titles(section)[0] == "Infiltration occurs in 17.7\u00a0% of images, Hernia in 0.20\u00a0%"
    views = Counter(row["View Position"] for row in rows)
    assert f"{percent(views['PA'] / len(rows), 0)} of images are PA views" in titles(section)


@pytest.mark.shared
def test_correlations_are_those_published(published: ReportImages) -> None:
    """Emphysema with Pneumothorax and Effusion with Atelectasis have r of about 0.17 to 0.18, the highest of all."""
    found = correlate(published.labels)
    place = {finding: row for row, finding in enumerate(FINDINGS)}
    for pair in (("Emphysema", "Pneumothorax"), ("Effusion", "Atelectasis")):
        assert found[place[pair[0]], place[pair[1]]] == pytest.approx(0.175, abs=0.008)
    assert strongest_pair(found, symmetric=True) == (place["Pneumothorax"], place["Emphysema"])


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=14, max_size=14), max_size=12))
def test_correlation_is_pearsons_or_nothing(rows: list[list[bool]]) -> None:
    """Equal to pandas' for every pair; NaN where a finding is constant; the strongest pair is the largest."""
    labels = np.array(rows, dtype=float).reshape(-1, 14)
    found = correlate(labels)
    expected = pd.DataFrame(labels).corr().to_numpy() if len(labels) > 1 else np.full((14, 14), np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    above = np.triu(np.ones((14, 14), dtype=bool), 1)
    pair = strongest_pair(found, symmetric=True)
    if pair is None:
        assert np.isnan(found[above]).all()
    else:
        assert found[pair] == np.nanmax(found[above])


def test_rejected_lines_are_counted_and_explained(tmp_path: Path) -> None:
    """Every reason with its number of lines and its first message; unreadable cells are counted, and cost no line."""
    path = tmp_path / "metadata.csv"
    bad = ["a.png,Mass", ",Mass,0,1,1,M,PA", "b.png,Mass,0,,1,M,PA", "c.png,Mass,0,nan,1,M,PA"]
    good = ["d.png,Mass,0,1,414Y,M,PA", "e.png,No Finding,0,1,1,X,PA"]
    path.write_text("\n".join([HEADER_SHORT, *bad, *good]))
    section = data_section(read_report_images([str(path)]))
    rows = table(section, "Rejected metadata lines: 4").rows
    assert [row[:3] for row in rows] == [
        ("patient-id-missing", "2", "4"), ("malformed", "1", "2"), ("image-index-missing", "1", "3")
    ]  # fmt: skip
    assert rows[0][3] == "Patient ID is empty"
    assert section.facts[0] == ("2", "images")
    assert ("4", "rejected lines") in section.facts
    assert any("2 cells cannot be read and are missing." in text for text in section.lead)


@pytest.mark.parametrize("name", ["normal-abnormal", "chexpert5", "nih14+no-finding"])
def test_the_section_fits_any_number_of_labels(name: str) -> None:
    """One, five and fifteen labels: no figure breaks, and pairs are compared only where there are two."""
    label_set = LABEL_SETS[name]
    data = cohort(["Mass", "Edema|Atelectasis", NO_FINDING, None] * 5, label_set=label_set)
    section = data_section(data)
    names = [row[0] for row in table(section, "Images and patients with each finding").rows]
    assert names == list(dict.fromkeys([*(label.replace("_", " ") for label in label_set.outputs), NO_FINDING]))
    assert any("correlat" in title or "occur together" in title for title in titles(section)) == (len(names) > 2)
    assert ("ChestX-ray14" in section.lead[0]) == name.startswith("nih")


def test_unknown_labels_are_in_no_share() -> None:
    """The prevalence of a label is its share of the images where it is known."""
    data = cohort(["Mass", "Edema", NO_FINDING, NO_FINDING])
    data.all_labels[1:3, FINDINGS.index("Mass")] = np.nan
    (row,) = [row for row in table(data_section(data), "with each finding").rows if row[0] == "Mass"]
    assert row[1:3] == ("50.0\u00a0%", "1")


def test_a_file_without_a_usable_line_is_refused(tmp_path: Path) -> None:
    """Without usable lines: an error with the reasons, not an empty page."""
    path = tmp_path / "metadata.csv"
    path.write_text(HEADER_SHORT + "\na.png,Mass,0,,1,M,PA\n")
    with pytest.raises(MetadataError, match="none of the 1 metadata lines is usable; rejected: 1 patient-id-missing"):
        read_report_images([str(path)])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (cohort([NO_FINDING]), "No image has a finding"),
        (cohort([None, None]), "No image has a finding"),
        (cohort(["|".join(FINDINGS)] * 3), "No correlation between findings is defined"),
        (cohort(["Mass", NO_FINDING], sex=[None, None]), "No image has both age and sex"),
        (cohort(["Mass", NO_FINDING], view_position=[None, None]), "The view is unknown for 100\u00a0% of images"),
        (
            cohort(["Mass", "Mass", NO_FINDING], view_position=["PA", "$AP$", "$AP$"]),
            "67\u00a0% of images are $AP$ views",
        ),
        (cohort(["Mass"] * 8, view_position=list("ABCDEFGH")), "12\u00a0% of images are A views"),
        (
            cohort(["Mass", "Edema"], patient_id=["1", "1"]),
            "0\u00a0% of patients have a single image; the maximum is 2",
        ),
    ],
)
def test_unusual_data_break_no_figure(data: ReportImages, expected: str) -> None:
    """No label, no positives, only positives, unknown sex or view: each figure is drawn, with a title about it."""
    section = data_section(data)
    assert expected in titles(section)
    assert sum(isinstance(block, Plot) for block in section.blocks) >= 6


def test_titles_say_what_the_figures_show() -> None:
    """Titles name the strongest pair, and the finding that differs most between views."""
    random = np.random.default_rng(0)
    labels = (random.uniform(size=(400, 14)) < 0.1).astype(float)
    labels[:, 13] = np.where(random.uniform(size=400) < 0.8, labels[:, 2], labels[:, 13])
    views = np.where(labels[:, 2] + (random.uniform(size=400) < 0.3) > 0, "AP", "PA").tolist()
    section = data_section(cohort([format_findings(names) for names in from_multi_hot(labels)], view_position=views))
    r = np.corrcoef(labels[:, 2], labels[:, 13])[0, 1]
    assert f"Effusion and Hernia occur together (r\u00a0=\u00a0{r:.2f})" in titles(section)
    both = (labels[:, 2] * labels[:, 13]).sum()
    pair = ("Effusion", "Hernia") if labels[:, 2].sum() < labels[:, 13].sum() else ("Hernia", "Effusion")
    share = percent(both / min(labels[:, 2].sum(), labels[:, 13].sum()), 0)
    assert f"{share} of images with {pair[0]} also have {pair[1]}" in titles(section)
    assert any(title.endswith("times as frequent in AP as in PA images") for title in titles(section))
