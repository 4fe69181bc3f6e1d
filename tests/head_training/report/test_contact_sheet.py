"""Images on the page: chosen by a fixed rule, decoded by the library, and compared with the thresholds."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrfeat.errors import ConfigError, PredictionsError, ReportError
from cxrfeat.labels.findings import FINDINGS, NO_FINDING, from_multi_hot
from head_training.report.contact_sheet import THUMBNAIL, ImageFolder, contact_sheet
from head_training.report.page import Section, Sheet
from head_training.report.predictions_section import EXAMPLES, predictions_section
from head_training.report.report_images import ReportImages, read_report_images
from head_training.report.report_inputs import EvaluationMetrics, read_metrics
from head_training.report.style import spell
from tests.head_training.evaluations import Case


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return predictions with images in xrays, except every tenth; the first in hash order is damaged."""
    case = Case(tmp_path_factory.mktemp("case"))
    case.labels[0], case.labels[1], case.labels[2] = False, False, False
    case.scores[:3] = 0.0
    case.write_ground_truth()
    case.write_predictions(case.table())
    case.evaluate("eval", "--resamples", "5")
    folder = case.folder / "xrays" / "deep"
    folder.mkdir(parents=True)
    for number, name in enumerate(case.images):
        if number % 10 != 9:
            Image.fromarray(np.full((400, 500), number, dtype=np.uint8)).save(folder / name)
    first = min(case.images[:90], key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    (folder / first).write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return case


def data_of(case: Case) -> ReportImages:
    rest = case.write_list("rest.txt", range(90, 180))
    return read_report_images([str(case.ground_truth)], str(rest), str(case.test_list))


def metrics_of(case: Case) -> EvaluationMetrics:
    return read_metrics(case.folder / "eval" / "metrics.json")


def sheets(section: Section) -> list[Sheet]:
    return [block for block in section.blocks if isinstance(block, Sheet)]


def gray_of(uri: str | None) -> tuple[tuple[int, int], int]:
    assert uri is not None
    assert uri.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return image.size, round(float(np.asarray(image).mean()))


def test_a_thumbnail_is_the_image_made_small(tmp_path: Path) -> None:
    """At most 320 pixels; 16 bits scaled from their full range; the error of a damaged image is recorded."""
    Image.fromarray(np.full((400, 800), 200, dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((64, 64), 100 * 257, dtype=np.uint16)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    folder = ImageFolder(str(tmp_path))
    assert gray_of(folder.thumbnail("a.png")) == ((THUMBNAIL, THUMBNAIL // 2), 200)
    assert gray_of(folder.thumbnail("b.png")) == ((64, 64), 100)
    assert folder.thumbnail("c.png") is None
    (tmp_path / "a.png").unlink()
    assert folder.thumbnail("a.png") is None
    assert folder.unreadable["c.png"] == "the file has 0 bytes"
    assert "No such file" in folder.unreadable["a.png"]
    with pytest.raises(ConfigError, match=str(tmp_path / "none")):
        ImageFolder(str(tmp_path / "none"))


@pytest.mark.slow
def test_the_contact_sheet_shows_the_first_image_that_has_a_label_alone(case: Case) -> None:
    """The first by name that is decodable and in the folder; a label without such an image has none."""
    folder = ImageFolder(str(case.folder / "xrays"))
    sheet = contact_sheet(data_of(case), folder)
    shown = {tile.title: tile for tile in sheet.tiles}
    assert list(shown) == [*map(spell, FINDINGS), NO_FINDING]
    names = from_multi_hot(case.labels)
    damaged = set(folder.unreadable)
    for label, finding in zip((*FINDINGS, NO_FINDING), shown, strict=True):
        wanted = [] if label == NO_FINDING else [label]
        having = [
            number
            for number, found in enumerate(names)
            if found == wanted and number % 10 != 9 and case.images[number] not in damaged
        ]
        tile = shown[finding]
        assert (tile.image is None) == (not having)
        if having:
            assert tile.lines[0][0].startswith(case.images[having[0]])
            assert gray_of(tile.image)[1] == having[0]
    assert sum(tile.image is not None for tile in sheet.tiles) >= 2


def test_predictions_are_compared_with_labels_by_threshold(case: Case) -> None:
    """Correct and wrong images as counted here, the first in SHA-256 order of the names, each with its errors."""
    metrics, folder = metrics_of(case), ImageFolder(str(case.folder / "xrays"))
    section = predictions_section(metrics, case.predictions, data_of(case), folder)
    thresholds = np.array([metrics.content["thresholds"]["f1"][finding] for finding in FINDINGS])
    errors = (case.scores[:90] >= thresholds) != case.labels[:90]
    available = [number for number in range(90) if number % 10 != 9]
    available.sort(key=lambda number: hashlib.sha256(case.images[number].encode()).hexdigest())
    correct = [number for number in available if not errors[number].any()]
    wrong = [number for number in available if errors[number].any()]
    kinds = ((correct, "correct in every finding"), (wrong, "wrong in at least one finding"))
    parts = [(part, kind) for part, kind in kinds if part]
    assert len(correct) >= 2
    assert [sheet.title for sheet in sheets(section)] == [
        f"{len(part)} of {len(available)} test images in the folder are {kind}" for part, kind in parts
    ]
    damaged = available[0]
    for sheet, (part, _) in zip(sheets(section), parts, strict=True):
        expected = [number for number in part if number != damaged][:EXAMPLES]
        assert [tile.lines[-1][0].split(",")[0] for tile in sheet.tiles] == [case.images[number] for number in expected]
        for tile, number in zip(sheet.tiles, expected, strict=True):
            bad = [text for text, tone in tile.lines if tone == "bad"]
            assert len(bad) == errors[number].sum()
            for column in np.flatnonzero(errors[number]):
                word = "missed" if case.labels[number, column] else "not labelled"
                value = f"{case.scores[number, column]:.2f}"
                assert f"✗ {spell(FINDINGS[column])} {value}, {word}" in bad
    assert any(case.images[damaged] in text for text in section.lead)


def test_predictions_without_thresholds_or_of_something_else_are_refused(case: Case, tmp_path: Path) -> None:
    """An error without thresholds, and for columns that were not evaluated."""
    metrics, folder = metrics_of(case), ImageFolder(str(case.folder / "xrays"))
    bare = EvaluationMetrics({**metrics.content, "thresholds": {}}, metrics.numbers)
    with pytest.raises(ReportError, match="has no thresholds"):
        predictions_section(bare, case.predictions, data_of(case), folder)
    other = EvaluationMetrics(
        {**metrics.content, "predictions": {**metrics.content["predictions"], "scale": "q"}}, metrics.numbers
    )
    with pytest.raises(PredictionsError, match="no finding with the prefix 'q_'"):
        predictions_section(other, case.predictions, data_of(case), folder)
