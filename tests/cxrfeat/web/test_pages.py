"""HTML of the pages: no external resources, nothing inline, no dead links."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cxrfeat.head.bundle import load_bundle, save_bundle
from cxrfeat.images.decode import decode_image
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.label_sets import LABEL_SETS
from cxrfeat.web.examples import SIDE, draw_example, list_examples
from cxrfeat.web.service import ServiceSettings, open_service
from tests import fakes
from tests.cxrfeat.web.conftest import serve

PAGES = ("/", "/docs")


@pytest.mark.parametrize("path", [*PAGES, "/healthz", "/api/model", "/static/page.js", "/none", "/openapi.json"])
def test_every_response_is_locked_down(path: str, client: httpx.Client) -> None:
    """All responses have a strict policy, including errors."""
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] in ("no-store", "no-cache")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_nothing_but_this_server(path: str, client: httpx.Client) -> None:
    """No inline script, style or handler; every address is local and exists."""
    html = client.get(path).text
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", html) == []
    references = re.findall(r'\s(?:src|href|data-url)="([^"]+)"', html)
    assert len(references) > 3
    for reference in references:
        assert reference.startswith(("/", "#", "data:,"))
        if reference.startswith("/"):
            assert client.get(reference).status_code == 200
    for script in re.findall(r'"(/static/\w+\.js)"', html):
        for imported in re.findall(r'from "\.(/\w+\.js)"', client.get(script).text):
            assert client.get(f"/static{imported}").status_code == 200


def test_the_page_shows_the_model_card(client: httpx.Client) -> None:
    """Fingerprints, data, and AUROC, prevalence and threshold of each finding, without any script."""
    html, card = client.get("/").text, client.get("/api/model").json()
    for text in (
        card["head"],
        card["extractor"],
        "1,000 X-rays of 400 patients",
        "Research software",
        "0.750",
        "14.0 %",
    ):
        assert text in html
    assert all(finding.replace("_", " ") in html for finding in FINDINGS)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("normal-abnormal", ["Chest X-ray: 1 finding</h1>", "probability of “Abnormal”", "the set “normal-abnormal”"]),
        ("chexpert5", ["Chest X-ray: 5 findings</h1>", "Any of the 5 findings", "Pleural Effusion"]),
        ("nih14+no-finding", ["Chest X-ray: 15 labels</h1>", "Any of the 14 findings", "text mining"]),
    ],
)
def test_the_words_fit_the_number_of_labels(
    settings: ServiceSettings, tmp_path: Path, name: str, texts: list[str]
) -> None:
    """Titles, legends and the card speak of one finding, five findings or fifteen labels."""
    extractor, label_set = load_bundle(settings.head).extractor, LABEL_SETS[name]
    save_bundle(fakes.bundle(2048, extractor=extractor, label_set=label_set), tmp_path / "head")
    with serve(open_service(replace(settings, head=str(tmp_path / "head")))) as other:
        html = other.get("/").text
        image = fakes.png(fakes.gray_image())
        answer = other.post("/api/predict", content=image, headers={"Content-Type": "image/png"}).json()
    for text in texts:
        assert text in html
    assert ('<div class="any" hidden>' in html) == (name == "normal-abnormal")
    assert [entry["finding"] for entry in answer["findings"]] == list(label_set.outputs)


def test_a_head_without_age_sex_and_record_has_a_page(settings: ServiceSettings, tmp_path: Path) -> None:
    """The form lacks unused inputs, and the card shows that nothing is recorded."""
    extractor = load_bundle(settings.head).extractor
    save_bundle(fakes.bundle(2048, covariates=(), extractor=extractor), tmp_path / "head")
    with serve(open_service(replace(settings, head=str(tmp_path / "head")))) as bare:
        html = bare.get("/").text
    assert "not recorded in the bundle" in html
    assert 'id="age"' not in html
    assert 'id="sex"' not in html
    assert 'id="file"' in html


def test_the_documentation_is_the_openapi_document(client: httpx.Client) -> None:
    """Every path, parameter, status and field is on the page."""
    html, document = client.get("/docs").text, client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [
        *document["paths"],
        *(status for operation in operations for status in operation["responses"]),
        *(parameter["name"] for operation in operations for parameter in operation.get("parameters", [])),
        *(field for schema in document["components"]["schemas"].values() for field in schema["properties"]),
    ]
    assert {"/api/predict", "503", "sex", "heat_map"} <= set(names)
    assert [name for name in names if name not in html] == []


def test_examples_are_valid_images(client: httpx.Client) -> None:
    """Each is available, legal, scored, and has the same bytes every time; the API lists the same examples."""
    listed = client.get("/api/examples").json()
    assert [entry["name"] for entry in listed] == [entry.name for entry in list_examples()]
    contents = [client.get(entry["url"]).content for entry in listed]
    assert len(set(contents)) == len(listed) > 3
    for entry, content in zip(listed, contents, strict=True):
        assert decode_image(content).pixels.shape == (SIDE, SIDE)
        query = {"age": entry["age"], "sex": entry["sex"]}
        headers = {"Content-Type": "image/png"}
        assert client.post("/api/predict", content=content, params=query, headers=headers).json()["assumptions"] == []
    draw_example.cache_clear()
    assert client.get(listed[0]["url"]).content == contents[0]
