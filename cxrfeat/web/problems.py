"""Error responses as ``application/problem+json``, with the reason codes of the quarantine.

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

IMAGE_ERROR_TITLES: Mapping[str, str] = {
    Reason.EMPTY: "The file is empty. Was it copied completely?",
    Reason.NOT_PNG_OR_JPEG: "This file is no PNG, JPEG or DICOM picture. Please export the X-ray as one of them.",
    Reason.UNSUPPORTED_FORMAT: "This picture format is not supported. Please export the X-ray as PNG, JPEG or DICOM.",
    Reason.CORRUPT: "The picture is damaged and cannot be read. Please export or copy it again.",
    Reason.TOO_SMALL: "The picture is too small to show a chest. Please use the original X-ray, not a preview.",
    Reason.TOO_LARGE: "The picture is larger than any X-ray. Please export it at its original resolution.",
    Reason.UNSUPPORTED_MODE: "The picture uses print colours (CMYK). Please export it as grayscale.",
    Reason.NO_IMAGE: "This DICOM file has no picture. Please choose the X-ray of the study.",
    Reason.MULTI_FRAME: "This DICOM file has several pictures. Please choose a single X-ray.",
    Reason.NOT_A_CHEST_RADIOGRAPH: "This DICOM file says that it is no chest X-ray.",
    Reason.LOW_RANGE: "The picture uses a small part of its gray levels. Please export it with full contrast.",
    Reason.COLOUR: "The picture has colours, so it is not an X-ray. It may be a photograph or a screenshot.",
}
"""Sentence for the visitor, for every reason code of :func:`cxrfeat.images.decode.decode_image`."""

_log = logging.getLogger("cxrfeat.web")


class Problem(Exception):  # noqa: N818 - the name of the standard
    """A failed request.

    Attributes:
        status: HTTP status of the response.
        reason: code for programs.
        title: sentence for the visitor.
        detail: the expected and the actual value.
        headers: additional headers of the response.
    """

    def __init__(
        self, status: HTTPStatus, reason: str, title: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.title, self.detail = status, reason, title, detail
        self.headers = dict(headers or {})

    def respond(self) -> JSONResponse:
        """Return the HTTP response."""
        details = ProblemDetails(
            type=f"urn:cxrfeat:{self.reason}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            reason=self.reason,
        )
        return JSONResponse(details.model_dump(), self.status, self.headers, media_type=MEDIA_TYPE)


def document(meanings: Mapping[HTTPStatus, str]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of error responses, given the meaning of each status."""
    content = {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}
    return {status.value: {"description": meaning, "content": content} for status, meaning in meanings.items()}


def install(app: FastAPI) -> None:
    """Turn every error of an application into a problem response, including the framework's errors."""

    def respond(_: Request, error: Exception) -> JSONResponse:
        return to_problem(error).respond()

    for kind in (Problem, ImageError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, respond)


def to_problem(error: Exception) -> Problem:
    """Convert an error to a problem. Log internal errors with their traceback, without the X-ray's data."""
    match error:
        case Problem():
            return error
        case ImageError():
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason, IMAGE_ERROR_TITLES[error.reason], str(error))
        case RequestValidationError():
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            title = "Age must be 0 to 123 years and sex M or F. Leave unknown values empty."
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", title, "; ".join(faults))
        case HTTPException():
            status = HTTPStatus(error.status_code)
            reason = status.phrase.lower().replace(" ", "-")
            return Problem(status, reason, f"{status.phrase}.", error.detail, error.headers)
        case _:
            _log.error("a request failed", exc_info=error)
            title = "The server failed; your X-ray is not the cause. Please inform the operator of this page."
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", title, type(error).__name__)
