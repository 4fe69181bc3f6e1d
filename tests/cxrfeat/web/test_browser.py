"""The page in a real browser: what a visitor sees, with mouse, keyboard, on a phone, and what axe has to say about it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import ExifTags, Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cxrfeat.web.examples import draw_example
from cxrfeat.web.service import Service
from tests import fakes
from tests.cxrfeat.web.conftest import PATIENCE_S

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")

DESK, PHONE = (1440, 1000), (390, 844)
REFUSED = tuple(f"Failed to load resource: the server responded with a status of {status}" for status in (422, 503))
"""What Chromium writes to the console of any page whose request was refused; not the page's own."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        expect.set_options(timeout=1000 * PATIENCE_S)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """Open the page; at its end the console must have been silent."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": DESK[0], "height": DESK[1]}, base_url=str(client.base_url))
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


def look(page: Page, path: Path, service: Service) -> None:
    """Upload a film and look at all that there is to see of it."""
    upload(page, path)
    answer = service.answer(path.read_bytes())
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


def test_a_visitor_sees_the_findings_of_a_film(page: Page, phantom: Path, service: Service) -> None:
    """All 14, sorted, with thresholds, the positive ones marked, the score on top, and what was assumed."""
    look(page, phantom, service)


@pytest.mark.shared
def test_a_visitor_sees_the_findings_of_a_real_film(page: Page, shared: Path, service: Service) -> None:
    """A film of the NIH's, from its archive."""
    look(page, min((shared / "nih").rglob("*.png")), service)


def test_the_heat_map_is_off_until_asked_for_and_follows_the_finding(page: Page, phantom: Path) -> None:
    """A slider shows it; another finding has another map, and asks the server nothing."""
    upload(page, phantom)
    assert heat(page)[0] == 0
    expect(page.locator("#legend")).to_be_hidden()
    page.locator("#opacity").fill("60")
    seen = [heat(page)]
    assert seen[0][0] == 0.6
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_role("radio", name="Hernia").check()
    expect(page.locator("#legend")).to_contain_text("speaks for Hernia")
    expect(page.locator("#legend-place")).to_contain_text("of the picture.")
    seen.append(heat(page))
    page.keyboard.press("ArrowUp")  # the finding above it
    expect(page.get_by_role("radio", name="Hernia")).not_to_be_checked()
    seen.append(heat(page))
    assert len({picture for _, picture in seen}) == 3
    assert requests == []


def test_a_text_file_is_refused_in_words(page: Page, phantom: Path, tmp_path: Path) -> None:
    """Under the name of a picture: a sentence and the code; what was shown before is gone, and the next film is answered."""
    upload(page, phantom)
    fake = tmp_path / "notes.png"
    fake.write_text("these are notes")
    upload(page, fake)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("neither a PNG nor a JPEG picture")
    expect(alert).to_contain_text("not-png-or-jpeg")
    expect(page.locator("#answer")).to_be_hidden()
    expect(page.locator("#viewer")).to_be_hidden()
    upload(page, phantom)
    expect(alert).to_be_hidden()
    expect(page.locator(".finding")).to_have_count(14)


def test_a_busy_server_is_asked_again(page: Page, phantom: Path) -> None:
    """After the time that it asks for; a visitor sees why it takes longer."""
    busy = {"status": 503, "headers": {"Retry-After": "1"}, "body": "{}"}
    page.route("**/api/predict*", lambda route: route.fulfill(**busy), times=2)
    page.set_input_files("#file", phantom)
    expect(page.locator("#status")).to_contain_text("trying again in 1 s")
    expect(page.locator("#status")).to_contain_text("of 14 findings")


def test_age_and_sex_are_asked_again(page: Page, phantom: Path) -> None:
    """A change is answered at once; an impossible age is refused, and the film stays."""
    upload(page, phantom)
    expect(page.locator("#assumptions p")).to_have_count(2)
    page.get_by_label("Age").fill("58")
    page.get_by_label("Sex").select_option("F")
    expect(page.locator("#assumptions p")).to_have_count(0)
    page.get_by_label("Age").fill("400")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("Age is 0 to 123 years")
    expect(page.locator("#viewer")).to_be_visible()


def test_an_example_is_one_click(page: Page) -> None:
    """A phantom with its age and sex."""
    page.get_by_role("button", name="Pneumothorax").click()
    expect(page.locator("#status")).to_contain_text("Phantom “Pneumothorax”: ")
    assert page.get_by_label("Age").input_value() == "26"
    expect(page.locator("#assumptions p")).to_have_count(0)


def test_a_film_is_dropped_anywhere_on_the_page(page: Page, phantom: Path) -> None:
    """It is taken as if it had been chosen, and does not replace the page."""
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


def test_a_film_is_shown_as_the_model_sees_it(page: Page, tmp_path: Path) -> None:
    """A camera's note that the picture is to be turned is followed by neither, or the heat map would lie wrong."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path.write_bytes(fakes.encode(Image.fromarray(fakes.film(100, 300)), "JPEG", exif=exif))
    upload(page, path)
    box = page.locator("#picture").bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(3 * box["height"], abs=1)
    shown = np.asarray(Image.open(io.BytesIO(page.locator("#picture").screenshot())).convert("L"), dtype=float)
    assert shown[:, -100:].mean() > shown[:, :100].mean() + 20, "bright on the right, as it is stored"


def test_a_film_is_zoomed_by_keys_and_buttons(page: Page, tmp_path: Path) -> None:
    """In, out and back; a film that is not square keeps its shape, and the heat map lies on it exactly."""
    path = tmp_path / "wide.png"
    path.write_bytes(fakes.png(fakes.film(200, 400)))
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


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(page: Page, size: tuple[int, int], scheme: str, phantom: Path) -> None:
    """Before, with an answer and heat map, and refused: nothing serious for axe, and nothing beyond the edge of the window."""
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
