"""Why there is no answer, in words: ``application/problem+json`` with the reason codes of the quarantine.

Source: RFC 9457, Problem Details for HTTP APIs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cxrfeat.errors import ImageError
from cxrfeat.io.schema import Reason
from cxrfeat.web.schemas import ProblemDetails

MEDIA_TYPE = "application/problem+json"

REFUSALS: Mapping[str, str] = {
    Reason.EMPTY: "The file is empty. Was it copied completely?",
    Reason.NOT_PNG_OR_JPEG: "This file is neither a PNG nor a JPEG picture. Please export the X-ray as one of them.",
    Reason.CORRUPT: "The picture is damaged and can't be read. Please export or copy it again.",
    Reason.TOO_SMALL: "The picture is too small to show a chest. Please use the film itself, not a preview.",
    Reason.TOO_LARGE: "The picture is larger than any X-ray. Please export it in its own resolution.",
    Reason.UNSUPPORTED_MODE: "The picture is stored in colours for print (CMYK). Please export it in gray.",
    Reason.COLOUR: "The picture is coloured, so it is no X-ray: a photograph or a screenshot, perhaps.",
}
"""What a refused film is told, for every reason that :func:`cxrfeat.images.png_jpeg.decode` has."""

_log = logging.getLogger("cxrfeat.web")


class Problem(Exception):  # noqa: N818 - the name of the standard
    """A request that gets no answer.

    Attributes:
        status: of the response.
        reason: code for programs.
        title: sentence for people.
        detail: what was expected, and what was there.
        headers: of the response.
    """

    def __init__(
        self, status: HTTPStatus, reason: str, title: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.title, self.detail = status, reason, title, detail
        self.headers = dict(headers or {})

    def respond(self) -> JSONResponse:
        """Return the response."""
        details = ProblemDetails(
            type=f"urn:cxrfeat:{self.reason}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            reason=self.reason,
        )
        return JSONResponse(details.model_dump(), self.status, self.headers, media_type=MEDIA_TYPE)


def document(meanings: Mapping[HTTPStatus, str]) -> dict[int | str, dict[str, Any]]:
    """Return what an OpenAPI document says of statuses, from what each of them means."""
    content = {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}
    return {status.value: {"description": meaning, "content": content} for status, meaning in meanings.items()}


def install(app: FastAPI) -> None:
    """Make every error of an application a problem, those of the framework too."""

    def respond(_: Request, error: Exception) -> JSONResponse:
        return to_problem(error).respond()

    for kind in (Problem, ImageError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, respond)


def to_problem(error: Exception) -> Problem:
    """Return what a visitor is told of an error; one that is ours is logged, with its traceback and nothing of the film."""
    match error:
        case Problem():
            return error
        case ImageError():
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason, REFUSALS[error.reason], str(error))
        case RequestValidationError():
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            title = "Age is 0 to 123 years, sex is M or F; leave out what you don't know."
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", title, "; ".join(faults))
        case HTTPException():
            status = HTTPStatus(error.status_code)
            reason = status.phrase.lower().replace(" ", "-")
            return Problem(status, reason, f"{status.phrase}.", error.detail, error.headers)
        case _:
            _log.error("a request failed", exc_info=error)
            title = "Something went wrong here, and not with your film. Please tell whoever runs this page."
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", title, type(error).__name__)
