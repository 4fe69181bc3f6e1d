"""What visitors get over HTTP: answers, refusals in words, and limits that hold."""

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

from cxrfeat.web.problems import MEDIA_TYPE, REFUSALS
from cxrfeat.web.request_queue import RequestLimits
from cxrfeat.web.schemas import Answer
from cxrfeat.web.service import Service
from tests import fakes
from tests.cxrfeat.web.conftest import PATIENCE_S, serve, wait_for

PNG = {"Content-Type": "image/png"}


def predict(client: httpx.Client, content: Any, **query: Any) -> httpx.Response:
    return client.post("/api/predict", content=content, params=query, headers=PNG)


def colour_photograph() -> bytes:
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, :, 0] = 200
    return fakes.encode(Image.fromarray(colours), "PNG")


REFUSED = {
    "empty": b"",
    "not-png-or-jpeg": b"this is text, whatever its name is",
    "corrupt": fakes.png(fakes.film())[:200],
    "too-small": fakes.png(fakes.film(31, 64)),
    "too-large": fakes.raw_png(9000, 9000),
    "unsupported-mode": fakes.encode(Image.new("CMYK", (64, 64)), "JPEG"),
    "colour": colour_photograph(),
}


def test_the_answer_is_the_services(client: httpx.Client, service: Service, png: bytes) -> None:
    """HTTP adds nothing and loses nothing."""
    response = predict(client, png, age=58, sex="F")
    assert response.status_code == HTTPStatus.OK
    assert response.headers["cache-control"] == "no-store"
    assert Answer.model_validate(response.json()) == service.answer(png, age=58, sex="F")


@pytest.mark.parametrize("reason", REFUSED)
def test_a_refused_film_is_told_why(reason: str, client: httpx.Client, png: bytes) -> None:
    """With the quarantine's code and a sentence; the next film is answered."""
    response = predict(client, REFUSED[reason])
    assert response.headers["content-type"] == MEDIA_TYPE
    problem = response.json()
    assert (response.status_code, problem["status"], problem["reason"]) == (422, 422, reason)
    assert (problem["title"], problem["type"]) == (REFUSALS[reason], f"urn:cxrfeat:{reason}")
    assert predict(client, png).status_code == HTTPStatus.OK


def test_every_refusal_is_tried() -> None:
    """The table above and the words for visitors are about the same reasons."""
    assert set(REFUSED) == set(REFUSALS)


@pytest.mark.parametrize(
    "query", [{"age": -1}, {"age": 124}, {"age": "nan"}, {"age": "old"}, {"sex": "X"}, {"sex": "m"}, {"age": ""}]
)
def test_impossible_ages_and_sexes_are_refused(query: dict[str, Any], client: httpx.Client, png: bytes) -> None:
    """Never guessed at; the parameter is named."""
    response = predict(client, png, **query)
    assert (response.status_code, response.json()["reason"]) == (422, "invalid-request")
    assert next(iter(query)) in response.json()["detail"]


def test_other_sites_cannot_send_films(client: httpx.Client, png: bytes) -> None:
    """A type that a foreign page may send without asking is refused."""
    for media_type in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""):
        response = client.post("/api/predict", content=png, headers={"Content-Type": media_type})
        assert (response.status_code, response.json()["reason"]) == (415, "unsupported-media-type")


def test_an_upload_is_limited_whether_or_not_it_says_its_size(service: Service, png: bytes) -> None:
    """One byte too many is refused, announced or in chunks; the limit itself is not."""

    def in_chunks() -> Iterator[bytes]:
        yield png
        yield b"x"

    with serve(service, RequestLimits(upload_bytes=len(png))) as client:
        assert predict(client, png).status_code == HTTPStatus.OK
        for body in (png + b"x", in_chunks()):
            response = predict(client, body)
            assert (response.status_code, response.json()["reason"]) == (413, "too-large")
        assert client.get("/healthz").json()["in_flight"] == 0


def test_beyond_the_limit_visitors_are_asked_to_come_back(
    service: Service, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After at once, while those who are in get their answers; then there is room again."""
    gate = threading.Event()
    answer = service.answer

    def wait_and_answer(data: bytes, **given: Any) -> Answer:
        gate.wait(PATIENCE_S)
        return answer(data, **given)

    with serve(service, RequestLimits(in_flight=2)) as client, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(service, "answer", wait_and_answer)
        waiting = [pool.submit(predict, client, png) for _ in range(2)]
        wait_for(lambda: client.get("/healthz").json()["in_flight"] == 2)
        refused = predict(client, png)
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert predict(client, png).status_code == HTTPStatus.OK
        assert client.get("/healthz").json()["answered"] == 3


def test_slow_and_broken_uploads_give_their_place_back(service: Service, png: bytes) -> None:
    """One that takes too long is ended with 408; one that is cut off leaves nothing behind."""

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
def test_our_own_errors_take_one_request_and_not_the_server(
    error: Exception, service: Service, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 without a word about the inside, and the next film is answered."""

    def fail(*_: object, **__: object) -> Answer:
        raise error

    with serve(service) as client:
        with monkeypatch.context() as patch:
            patch.setattr(service, "answer", fail)
            response = predict(client, png)
        assert (response.status_code, response.json()["reason"]) == (500, "internal-error")
        assert "secret" not in response.text
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert predict(client, png).status_code == HTTPStatus.OK


def test_what_is_not_there_is_a_problem_too(client: httpx.Client) -> None:
    """Unknown addresses and methods; nothing outside the static folder can be asked for."""
    for path in ("/none", "/examples/none.png", "/static/none.js", "/static/../app.py", "/static/%2e%2e/app.py"):
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (404, MEDIA_TYPE)
    response = client.get("/api/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
