"""Request queue with limits on the number, size and duration of uploads; predictions run one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

from cxrfeat.web.examples import draw_example, list_examples
from cxrfeat.web.problems import Problem, to_problem
from cxrfeat.web.schemas import Answer
from cxrfeat.web.service import Service

MEDIA_TYPES = ("application/octet-stream", "image/png", "image/jpeg", "application/dicom")
"""Content types accepted for an upload. A page of another site cannot send any of them without a CORS preflight, which
fails here, so it cannot use a service that listens on its reader's machine."""

_RETRY_AFTER_S = 1


@dataclass(frozen=True)
class RequestLimits:
    """Limits on the requests of one process.

    Attributes:
        upload_bytes: maximum size of one image, which is the whole request body.
        in_flight: maximum number of concurrent requests, from upload to response; more get status 503.
        upload_s: maximum duration of an upload in seconds, so that slow uploads cannot block all slots.
    """

    upload_bytes: int = 64 * 2**20
    in_flight: int = 8
    upload_s: float = 60.0


class RequestQueue:
    """Queue that reads uploads and runs predictions for them, within limits.

    Attributes:
        service: scores the images.
        limits: limits on requests.
        in_flight: number of requests in progress.
        answered: number of images scored since the start.
    """

    def __init__(self, service: Service, limits: RequestLimits) -> None:
        self.service = service
        self.limits = limits
        self.in_flight = 0
        self.answered = 0
        # One thread: the network already uses all cores, and one image at a time bounds the memory of decoding.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")

    async def warm_up(self) -> None:
        """Draw the examples and score one of them, so that the first request is as fast as later ones."""
        loop = asyncio.get_running_loop()
        images = [await loop.run_in_executor(self._pool, draw_example, example.name) for example in list_examples()]
        await loop.run_in_executor(self._pool, self.service.predict, images[0])

    async def predict(self, request: Request, age: float | None, sex: str | None) -> Answer:
        """Read the image in a request body and score it.

        Raises:
            Problem: too many requests; a body of another type, too large, too slow or cut off; not a radiograph; an
                internal error.
        """
        with self._reserve_slot():
            data = await self._read_body(request)
            answer = await self._run_prediction(data, age, sex)
        self.answered += 1
        return answer

    async def _run_prediction(self, data: bytes, age: float | None, sex: str | None) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: self.service.predict(data, age=age, sex=sex))
        # Internal errors too: the framework would close the connection, and the next request on it would fail.
        except Exception as error:
            raise to_problem(error) from error

    def close(self) -> None:
        """Finish the running prediction and drop the waiting ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _reserve_slot(self) -> Iterator[None]:
        if self.in_flight >= self.limits.in_flight:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "busy",
                "The server is busy. Please try again in a few seconds.",
                f"{self.in_flight} requests in progress; expected at most {self.limits.in_flight}",
                {"Retry-After": str(_RETRY_AFTER_S)},
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def _read_body(self, request: Request) -> bytes:
        media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type not in MEDIA_TYPES:
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Please send the X-ray itself, as PNG, JPEG or DICOM.",
                f"Content-Type {media_type!r}; expected {', '.join(MEDIA_TYPES)}, with the file as the body",
            )
        declared_size = request.headers.get("content-length", "")
        self._check_size(int(declared_size) if declared_size.isdecimal() else 0)
        data = bytearray()
        try:
            async with asyncio.timeout(self.limits.upload_s):
                async for chunk in request.stream():
                    data += chunk
                    self._check_size(len(data))
        except TimeoutError as error:
            detail = f"{len(data)} bytes in {self.limits.upload_s:g} s; expected the whole upload in that time"
            title = "The upload took too long."
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "upload-timeout", title, detail) from error
        except ClientDisconnect as error:
            title = "The upload was cut off."
            raise Problem(HTTPStatus.BAD_REQUEST, "cut-off", title, f"after {len(data)} bytes") from error
        return bytes(data)

    def _check_size(self, size: int) -> None:
        if size > self.limits.upload_bytes:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "too-large",
                f"The file is larger than {self.limits.upload_bytes / 2**20:g} MB, the limit of this service.",
                f"at least {size} bytes; expected at most {self.limits.upload_bytes}",
            )
