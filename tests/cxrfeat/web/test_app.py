"""HTTP API: predictions, error responses and request limits."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cxrfeat.web.problems import IMAGE_ERROR_TITLES, MEDIA_TYPE
from cxrfeat.web.request_queue import RequestLimits
from cxrfeat.web.schemas import Answer
from cxrfeat.web.service import Service
from tests import fakes
from tests.cxrfeat.web.conftest import PATIENCE_S, serve, wait_for
from tests.dicom_files import dicom, scale

PNG = {"Content-Type": "image/png"}


def predict(client: httpx.Client, content: Any, **query: Any) -> httpx.Response:
    return client.post("/api/predict", content=content, params=query, headers=PNG)


def colour_photograph() -> bytes:
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, :, 0] = 200
    return fakes.encode(Image.fromarray(colours), "PNG")


SCALED = scale(fakes.gray_image(), 12)
REFUSED = {
    "empty": b"",
    "not-png-or-jpeg": b"this is text, whatever its name is",
    "unsupported-format": fakes.encode(Image.new("L", (64, 64)), "TIFF"),
    "low-range": fakes.encode(Image.fromarray(fakes.gray_image().astype(np.uint16) * 16), "PNG"),
    "no-image": dicom(SCALED, 12, Rows=None),
    "multi-frame": dicom(SCALED, 12, NumberOfFrames=2),
    "not-a-chest-radiograph": dicom(SCALED, 12, BodyPartExamined="KNEE"),
    "corrupt": fakes.png(fakes.gray_image())[:200],
    "too-small": fakes.png(fakes.gray_image(31, 64)),
    "too-large": fakes.raw_png(9000, 9000),
    "unsupported-mode": fakes.encode(Image.new("CMYK", (64, 64)), "JPEG"),
    "colour": colour_photograph(),
}


def test_the_response_is_the_services_prediction(client: httpx.Client, service: Service, png: bytes) -> None:
    """HTTP neither adds nor loses anything."""
    response = predict(client, png, age=58, sex="F")
    assert response.status_code == HTTPStatus.OK
    assert response.headers["cache-control"] == "no-store"
    assert Answer.model_validate(response.json()) == service.predict(png, age=58, sex="F")


@pytest.mark.parametrize("reason", REFUSED)
def test_a_refused_image_gets_a_reason(reason: str, client: httpx.Client, png: bytes) -> None:
    """The response has the quarantine code and a sentence; the next image is scored."""
    response = predict(client, REFUSED[reason])
    assert response.headers["content-type"] == MEDIA_TYPE
    problem = response.json()
    assert (response.status_code, problem["status"], problem["reason"]) == (422, 422, reason)
    assert (problem["title"], problem["type"]) == (IMAGE_ERROR_TITLES[reason], f"urn:cxrfeat:{reason}")
    assert predict(client, png).status_code == HTTPStatus.OK


def test_every_refusal_is_tried() -> None:
    """The table above covers every reason that has a sentence."""
    assert set(REFUSED) == set(IMAGE_ERROR_TITLES)


@pytest.mark.parametrize(
    "query", [{"age": -1}, {"age": 124}, {"age": "nan"}, {"age": "old"}, {"sex": "X"}, {"sex": "m"}, {"age": ""}]
)
def test_impossible_ages_and_sexes_are_refused(query: dict[str, Any], client: httpx.Client, png: bytes) -> None:
    """The error names the parameter."""
    response = predict(client, png, **query)
    assert (response.status_code, response.json()["reason"]) == (422, "invalid-request")
    assert next(iter(query)) in response.json()["detail"]


def test_other_sites_cannot_send_images(client: httpx.Client, png: bytes) -> None:
    """Content types that a foreign page may send without a CORS preflight are refused."""
    for media_type in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""):
        response = client.post("/api/predict", content=png, headers={"Content-Type": media_type})
        assert (response.status_code, response.json()["reason"]) == (415, "unsupported-media-type")


def test_an_upload_is_limited_with_and_without_a_content_length(service: Service, png: bytes) -> None:
    """One byte more than the limit is refused, declared or in chunks; the limit itself is accepted."""

    def in_chunks() -> Iterator[bytes]:
        yield png
        yield b"x"

    with serve(service, RequestLimits(upload_bytes=len(png))) as client:
        assert predict(client, png).status_code == HTTPStatus.OK
        for body in (png + b"x", in_chunks()):
            response = predict(client, body)
            assert (response.status_code, response.json()["reason"]) == (413, "too-large")
        assert client.get("/healthz").json()["in_flight"] == 0


def test_requests_beyond_the_limit_get_503(service: Service, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After immediately; running requests complete, then new ones are accepted."""
    gate = threading.Event()
    predict_image = service.predict

    def wait_and_predict(data: bytes, **given: Any) -> Answer:
        gate.wait(PATIENCE_S)
        return predict_image(data, **given)

    with serve(service, RequestLimits(in_flight=2)) as client, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(service, "predict", wait_and_predict)
        waiting = [pool.submit(predict, client, png) for _ in range(2)]
        wait_for(lambda: client.get("/healthz").json()["in_flight"] == 2)
        refused = predict(client, png)
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert predict(client, png).status_code == HTTPStatus.OK
        assert client.get("/healthz").json()["answered"] == 3


def test_slow_and_broken_uploads_free_their_slot(service: Service, png: bytes) -> None:
    """An upload that takes too long ends with 408; one that is cut off leaves no request in progress."""

    def slowly() -> Iterator[bytes]:
        yield png[:10]
        time.sleep(0.6)
        yield png[10:]

    with serve(service, RequestLimits(in_flight=1, upload_s=0.2)) as client:
        assert predict(client, slowly()).json()["reason"] == "upload-timeout"
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
            connection.sendall(
                b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nx"
            )
        wait_for(lambda: client.get("/healthz").json()["in_flight"] == 0)
        assert predict(client, png).status_code == HTTPStatus.OK


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError()])
def test_an_internal_error_fails_one_request_and_not_the_server(
    error: Exception, service: Service, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 without internal details, and the next image is scored."""

    def fail(*_: object, **__: object) -> Answer:
        raise error

    with serve(service) as client:
        with monkeypatch.context() as patch:
            patch.setattr(service, "predict", fail)
            response = predict(client, png)
        assert (response.status_code, response.json()["reason"]) == (500, "internal-error")
        assert "secret" not in response.text
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert predict(client, png).status_code == HTTPStatus.OK


def test_an_unknown_address_or_method_is_a_problem_response(client: httpx.Client) -> None:
    """Files outside the static folder are unknown addresses, too."""
    for path in ("/none", "/examples/none.png", "/static/none.js", "/static/../app.py", "/static/%2e%2e/app.py"):
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (404, MEDIA_TYPE)
    response = client.get("/api/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
