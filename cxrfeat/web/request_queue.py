"""Where visitors' films are taken in: so many at once, so large, one after the other through the network."""

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

MEDIA_TYPES = ("application/octet-stream", "image/png", "image/jpeg")
"""Of an upload. None of them can be sent by another site's page without asking first, so no such page can use a service
that is bound to its reader's own machine."""

_RETRY_AFTER_S = 1


@dataclass(frozen=True)
class RequestLimits:
    """What one process takes.

    Attributes:
        upload_bytes: of one film; the body of a request is the film.
        in_flight: requests at once, from the first byte of the upload to the answer; the next one is sent away.
        upload_s: seconds that an upload may take, so that slow ones can't keep all places.
    """

    upload_bytes: int = 64 * 2**20
    in_flight: int = 8
    upload_s: float = 60.0


class RequestQueue:
    """Takes films in and hands answers out.

    Attributes:
        service: who answers.
        limits: as given.
        in_flight: requests that it is at.
        answered: films since its start.
    """

    def __init__(self, service: Service, limits: RequestLimits) -> None:
        self.service = service
        self.limits = limits
        self.in_flight = 0
        self.answered = 0
        # One thread: the network uses all cores by itself, and one film at a time bounds the memory of decoding.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answer")

    async def warm_up(self) -> None:
        """Draw the examples and answer for one, so that the first visitor waits no longer than the tenth."""
        loop = asyncio.get_running_loop()
        films = [await loop.run_in_executor(self._pool, draw_example, example.name) for example in list_examples()]
        await loop.run_in_executor(self._pool, self.service.answer, films[0])

    async def predict(self, request: Request, age: float | None, sex: str | None) -> Answer:
        """Read a request's body and answer for it.

        Raises:
            Problem: too many requests; a body of another type, too large, too slow, cut off; no film; an error of ours.
        """
        with self._place():
            data = await self._read(request)
            answer = await self._answer(data, age, sex)
        self.answered += 1
        return answer

    async def _answer(self, data: bytes, age: float | None, sex: str | None) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: self.service.answer(data, age=age, sex=sex))
        # Our own errors too: the framework would close the connection under the visitor's next film.
        except Exception as error:
            raise to_problem(error) from error

    def close(self) -> None:
        """Finish the film at hand, and drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self.in_flight >= self.limits.in_flight:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "busy",
                "Too many films at this moment. Please try again in a few seconds.",
                f"{self.in_flight} requests in flight; at most {self.limits.in_flight} are taken",
                {"Retry-After": str(_RETRY_AFTER_S)},
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def _read(self, request: Request) -> bytes:
        media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type not in MEDIA_TYPES:
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Please send the film itself, as PNG or JPEG.",
                f"Content-Type {media_type!r}; expected one of {list(MEDIA_TYPES)}, the body being the file",
            )
        announced = request.headers.get("content-length", "")
        self._check_size(int(announced) if announced.isdecimal() else 0)
        data = bytearray()
        try:
            async with asyncio.timeout(self.limits.upload_s):
                async for chunk in request.stream():
                    data += chunk
                    self._check_size(len(data))
        except TimeoutError as error:
            detail = f"{len(data)} bytes in {self.limits.upload_s:g} s; the upload must be complete by then"
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
                f"The file is larger than {self.limits.upload_bytes / 2**20:g} MB, the most that is taken here.",
                f"{size} bytes or more; at most {self.limits.upload_bytes}",
            )
