"""The page in a real browser: content, mouse, keyboard, phone layout and accessibility (axe)."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import ExifTags, Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cxrfeat.backbones.encoder import EncoderSpec
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import find_weights
from cxrfeat.head.bundle import load_bundle, save_bundle
from cxrfeat.images.preprocess import Fit
from cxrfeat.labels.label_sets import LABEL_SETS
from cxrfeat.web.examples import draw_example
from cxrfeat.web.service import Service, ServiceSettings, open_service
from tests import fakes
from tests.cxrfeat.web.conftest import PATIENCE_S, serve
from tests.dicom_files import dicom, scale

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path"),
]

DESKTOP, PHONE = (1440, 1000), (390, 844)
REFUSED = tuple(f"Failed to load resource: the server responded with a status of {status}" for status in (422, 503))
"""Messages that Chromium itself writes to the console when a request fails."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        expect.set_options(timeout=1000 * PATIENCE_S)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """Open the page; check at the end that its console is empty."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, base_url=str(client.base_url))
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/")
    yield page
    context.close()
    assert [text for text in complaints if not text.startswith(REFUSED)] == []


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    path = tmp_path / "phantom.png"
    path.write_bytes(draw_example("cardiomegaly"))
    return path


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)
    expect(page.locator("#status")).to_contain_text(f"{path.name}: ")


def heat(page: Page) -> tuple[float, str]:
    """Return the opacity of the heat map and its picture."""
    opacity, picture = page.locator("#heat").evaluate("e => [Number(getComputedStyle(e).opacity), e.toDataURL()]")
    return float(opacity), str(picture)


def check_prediction(page: Page, path: Path, service: Service) -> None:
    """Upload an image and compare the page with the service's prediction."""
    upload(page, path)
    answer = service.predict(path.read_bytes())
    rows = page.locator(".finding")
    expect(rows).to_have_count(14)
    assert page.locator("#picture").evaluate("e => e.naturalWidth") == answer.film.width
    ranked = sorted(answer.findings, key=lambda entry: -entry.probability)
    names = [entry.finding.replace("_", " ") for entry in ranked]
    assert page.locator(".finding .name").all_inner_texts() == names
    for row, entry in zip(rows.all(), ranked, strict=True):
        expect(row.locator(".verdict")).to_contain_text("at or above" if entry.positive else "threshold")
        assert ("positive" in (row.get_attribute("class") or "")) == entry.positive
        assert row.locator(".threshold").count() == (entry.threshold is not None)
    expect(page.locator("#any-score")).to_have_text(f"{answer.any_finding.score:.2f}")
    expect(page.locator("#assumptions p")).to_have_text([entry.text for entry in answer.assumptions])


def test_a_visitor_sees_the_findings_of_an_image(page: Page, phantom: Path, service: Service) -> None:
    """All 14, sorted, with thresholds, positive ones marked, the overall score, and the assumptions."""
    check_prediction(page, phantom, service)


@pytest.mark.parametrize("name", ["normal-abnormal", "nih14+no-finding"])
def test_a_head_of_another_label_set_has_its_page(
    browser: Browser, settings: ServiceSettings, tmp_path: Path, phantom: Path, name: str
) -> None:
    """One label, and fifteen with a blank in a name: every row can be chosen and shows its map."""
    label_set = LABEL_SETS[name]
    extractor = load_bundle(settings.head).extractor
    save_bundle(fakes.bundle(2048, extractor=extractor, label_set=label_set), tmp_path / "head")
    with serve(open_service(replace(settings, head=str(tmp_path / "head")))) as client:
        page = browser.new_page(base_url=str(client.base_url))
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/")
        upload(page, phantom)
        expect(page.locator(".finding")).to_have_count(len(label_set.outputs))
        noun = "finding" if len(label_set.outputs) == 1 else "labels"
        expect(page.locator("#status")).to_contain_text(f"of {len(label_set.outputs)} {noun} at or above")
        last = label_set.outputs[-1].replace("_", " ")
        page.locator("#opacity").fill("60")
        page.get_by_role("radio", name=last).check()
        expect(page.locator("#legend-finding")).to_have_text(last)
        assert complaints == []
        page.close()


@pytest.mark.parametrize("fit", [Fit.CROP, Fit.PAD])
def test_the_heat_map_covers_what_the_model_sees(
    browser: Browser, settings: ServiceSettings, tmp_path: Path, fit: Fit
) -> None:
    """With a crop the map covers the middle of a tall X-ray; with black bars it reaches beyond its sides."""
    spec = EncoderSpec("small", find_weights(fakes.SMALL, "random"), input_size=64, fit=fit)
    save_bundle(fakes.bundle(2048, extractor=spec.fingerprint), tmp_path / "head")
    (tmp_path / "tall.png").write_bytes(fakes.png(fakes.gray_image(200, 100)))
    with serve(open_service(replace(settings, head=str(tmp_path / "head")))) as client:
        page = browser.new_page(base_url=str(client.base_url))
        page.goto("/")
        upload(page, tmp_path / "tall.png")
        expect(page.locator("#answer")).to_be_visible()
        picture, heat = page.locator("#picture").bounding_box(), page.locator("#heat").bounding_box()
        page.close()
    assert picture is not None
    assert heat is not None
    assert heat["width"] == pytest.approx(heat["height"], rel=0.01)
    side = picture["width"] if fit == Fit.CROP else picture["height"]
    assert heat["width"] == pytest.approx(side, rel=0.01)
    centres = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in (picture, heat)]
    assert centres[0] == pytest.approx(centres[1], abs=1)


def test_a_backbone_without_a_map_has_a_page(browser: Browser, settings: ServiceSettings, tmp_path: Path) -> None:
    """The page says plainly that there is no heat map, has no slider for it, and findings can be chosen."""
    BACKBONES["small-vector"] = fakes.SMALL_VECTOR
    spec = EncoderSpec("small-vector", find_weights(fakes.SMALL_VECTOR, "random"))
    save_bundle(fakes.bundle(2048, extractor=spec.fingerprint), tmp_path / "head")
    (tmp_path / "film.png").write_bytes(fakes.png(fakes.gray_image()))
    with serve(open_service(replace(settings, head=str(tmp_path / "head"), backbone=None))) as client:
        page = browser.new_page(base_url=str(client.base_url))
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/")
        upload(page, tmp_path / "film.png")
        expect(page.locator(".no-maps")).to_have_text(
            "No heat map: an embedding of small-vector is not the mean of a feature map."
        )
        expect(page.locator("#opacity")).to_be_hidden()
        page.get_by_role("radio", name="Hernia").check()
        expect(page.locator("#legend")).to_be_hidden()
        assert complaints == []
        page.close()
    del BACKBONES["small-vector"]


@pytest.mark.shared
def test_a_visitor_sees_the_findings_of_a_real_image(page: Page, shared: Path, service: Service) -> None:
    """An image of the NIH archive."""
    check_prediction(page, min((shared / "nih").rglob("*.png")), service)


def test_the_heat_map_is_off_by_default_and_follows_the_finding(page: Page, phantom: Path) -> None:
    """A slider shows it; another finding has another map and sends no request."""
    upload(page, phantom)
    assert heat(page)[0] == 0
    expect(page.locator("#legend")).to_be_hidden()
    page.locator("#opacity").fill("60")
    seen = [heat(page)]
    assert seen[0][0] == 0.6
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_role("radio", name="Hernia").check()
    expect(page.locator("#legend")).to_contain_text("evidence for Hernia")
    expect(page.locator("#legend-place")).to_contain_text("of the image.")
    seen.append(heat(page))
    page.keyboard.press("ArrowUp")  # the finding above it
    expect(page.get_by_role("radio", name="Hernia")).not_to_be_checked()
    seen.append(heat(page))
    assert len({picture for _, picture in seen}) == 3
    assert requests == []


def test_a_dicom_file_is_shown_as_the_model_sees_it(page: Page, tmp_path: Path) -> None:
    """Windowed and inverted, in its own shape; age and sex are those of the file until the visitor says otherwise."""
    stored = 4095 - scale(fakes.gray_image(200, 400), 12)
    (tmp_path / "export").write_bytes(dicom(stored, 12, PhotometricInterpretation="MONOCHROME1"))
    upload(page, tmp_path / "export")
    box = page.locator("#picture").bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(2 * box["height"], abs=1)
    shown = np.asarray(Image.open(io.BytesIO(page.locator("#picture").screenshot())).convert("L"), dtype=float)
    assert shown[:, -100:].mean() > shown[:, :100].mean() + 20, "expected the bright side on the right"
    assumptions = page.locator("#assumptions p")
    expect(assumptions).to_have_text(["Age is that of the file: 58 years.", "Sex is that of the file: female."])
    page.get_by_label("Age").fill("40")
    page.get_by_label("Sex").select_option("M")
    expect(assumptions).to_have_count(0)


def test_a_text_file_gets_an_error_message(page: Page, phantom: Path, tmp_path: Path) -> None:
    """A sentence and a code replace the previous prediction, and the next image is scored."""
    upload(page, phantom)
    fake = tmp_path / "notes.png"
    fake.write_text("these are notes")
    upload(page, fake)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("no PNG, JPEG or DICOM picture")
    expect(alert).to_contain_text("not-png-or-jpeg")
    expect(page.locator("#answer")).to_be_hidden()
    expect(page.locator("#viewer")).to_be_hidden()
    upload(page, phantom)
    expect(alert).to_be_hidden()
    expect(page.locator(".finding")).to_have_count(14)


def test_a_busy_server_gets_a_retry(page: Page, phantom: Path) -> None:
    """The page waits for Retry-After and shows the reason."""
    busy = {"status": 503, "headers": {"Retry-After": "1"}, "body": "{}"}
    page.route("**/api/predict*", lambda route: route.fulfill(**busy), times=2)
    page.set_input_files("#file", phantom)
    expect(page.locator("#status")).to_contain_text("trying again in 1 s")
    expect(page.locator("#status")).to_contain_text("of 14 findings")


def test_a_change_of_age_or_sex_updates_the_prediction(page: Page, phantom: Path) -> None:
    """An impossible age is refused, and the image stays."""
    upload(page, phantom)
    expect(page.locator("#assumptions p")).to_have_count(2)
    page.get_by_label("Age").fill("58")
    page.get_by_label("Sex").select_option("F")
    expect(page.locator("#assumptions p")).to_have_count(0)
    page.get_by_label("Age").fill("400")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("Age must be 0 to 123 years")
    expect(page.locator("#viewer")).to_be_visible()


def test_an_example_is_one_click(page: Page) -> None:
    """The phantom is scored with its age and sex."""
    page.get_by_role("button", name="Pneumothorax").click()
    expect(page.locator("#status")).to_contain_text("Phantom “Pneumothorax”: ")
    assert page.get_by_label("Age").input_value() == "26"
    expect(page.locator("#assumptions p")).to_have_count(0)


def test_an_image_is_dropped_anywhere_on_the_page(page: Page, phantom: Path) -> None:
    """It is scored like a chosen file and does not replace the page."""
    dropped = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
            return data;
        }""",
        list(phantom.read_bytes()),
    )
    page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
    expect(page.locator("#status")).to_contain_text("dropped.png: ")
    expect(page.locator(".finding")).to_have_count(14)


def test_an_image_is_shown_as_the_model_sees_it(page: Page, tmp_path: Path) -> None:
    """Page and model apply the EXIF orientation, so the heat map matches."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path.write_bytes(fakes.encode(Image.fromarray(fakes.gray_image(100, 300)), "JPEG", exif=exif))
    upload(page, path)
    box = page.locator("#picture").bounding_box()
    assert box is not None
    assert box["height"] == pytest.approx(3 * box["width"], abs=1)
    shown = np.asarray(Image.open(io.BytesIO(page.locator("#picture").screenshot())).convert("L"), dtype=float)
    assert shown[-50:].mean() > shown[:50].mean() + 20, "expected the bright side, stored on the right, at the bottom"


def test_an_image_is_zoomed_by_keys_and_buttons(page: Page, tmp_path: Path) -> None:
    """In, out and back; an image that is not square keeps its shape, and the heat map covers it exactly."""
    path = tmp_path / "wide.png"
    path.write_bytes(fakes.png(fakes.gray_image(200, 400)))
    upload(page, path)
    boxes = [page.locator(name).bounding_box() for name in ("#picture", "#heat")]
    assert boxes[0] == boxes[1]
    assert boxes[0] is not None
    assert boxes[0]["width"] == pytest.approx(2 * boxes[0]["height"], abs=1)
    page.locator("#viewer").press("+")
    expect(page.locator("#zoom-level")).to_have_text("125 %")
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator("#zoom-level")).to_have_text("156 %")
    larger = page.locator("#picture").bounding_box()
    assert larger is not None
    assert larger["width"] == pytest.approx(1.5625 * boxes[0]["width"], rel=0.01)
    page.locator("#viewer").press("0")
    expect(page.get_by_role("button", name="Zoom out")).to_be_disabled()


def refuse_age(page: Page) -> None:
    page.get_by_label("Age").fill("-1")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_be_visible()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(page: Page, size: tuple[int, int], scheme: str, phantom: Path) -> None:
    """In every state, axe finds no serious violation and nothing overflows the window."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    states: list[Callable[[], object]] = [
        lambda: None,
        lambda: upload(page, phantom),
        lambda: page.locator("#opacity").fill("50"),
        lambda: refuse_age(page),
        lambda: page.goto("/docs"),
    ]
    for reach in states:
        reach()
        found = Axe().run(page).response["violations"]
        assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
