"""Web application: routes, pages and security headers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

import jinja2
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxrfeat import NOTICE, __version__
from cxrfeat.labels.cells import MAX_AGE_YEARS
from cxrfeat.web import problems
from cxrfeat.web.examples import draw_example, list_examples
from cxrfeat.web.request_queue import MEDIA_TYPES, RequestLimits, RequestQueue
from cxrfeat.web.schemas import Answer, Example, Health, ModelCard
from cxrfeat.web.service import Service, ServiceSettings, open_service

_HERE = Path(__file__).parent

_SECURITY = {
    # No external resources, no inline script or style; blob: shows the visitor's own X-ray before it is uploaded.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_BODY = {
    "required": True,
    "description": "the PNG, JPEG or DICOM file itself",
    "content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES},
}
_ERROR_RESPONSES = {
    HTTPStatus.BAD_REQUEST: "the upload was cut off",
    HTTPStatus.REQUEST_TIMEOUT: "the upload took too long",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the file is larger than this service takes",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the Content-Type is none of those listed for the body",
    HTTPStatus.UNPROCESSABLE_ENTITY: "not a radiograph (reason is the quarantine code), or an invalid age or sex",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many concurrent requests; Retry-After is the time to wait, in seconds",
}

router = APIRouter()


def _request_queue(request: Request) -> RequestQueue:
    queue: RequestQueue = request.app.state.queue
    return queue


Queue = Annotated[RequestQueue, Depends(_request_queue)]
Age = Annotated[float | None, Query(ge=0, le=MAX_AGE_YEARS, allow_inf_nan=False, description="years, if known")]
Sex = Annotated[Literal["M", "F"] | None, Query(description="if known")]


@router.post(
    "/api/predict",
    summary="Score one X-ray: calibrated probabilities with heat maps",
    responses=problems.document(_ERROR_RESPONSES),
    openapi_extra={"requestBody": _BODY},
)
async def predict(request: Request, queue: Queue, age: Age = None, sex: Sex = None) -> Answer:
    """Score the X-ray in the request body. Nothing of it is stored or logged."""
    return await queue.predict(request, age, sex)


@router.get("/api/model", summary="The model card")
async def model(queue: Queue) -> ModelCard:
    """Return the fingerprints of backbone and head, the training data and the measured performance."""
    return queue.service.card


@router.get("/api/examples", summary="Example X-rays")
async def examples() -> list[Example]:
    """Return the example X-rays. They are synthetic and show no patient."""
    return list_examples()


@router.get("/healthz", summary="Health check")
async def health(queue: Queue) -> Health:
    """Return the status and the load of the process that serves this request."""
    return Health(head=queue.service.card.head, in_flight=queue.in_flight, answered=queue.answered)


@router.get("/examples/{name}.png", include_in_schema=False)
async def example(name: str) -> Response:
    """Return an example X-ray as PNG, drawn when the process started."""
    if name not in {known.name for known in list_examples()}:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return Response(draw_example(name), media_type="image/png")


def create_app(service: Service, limits: RequestLimits | None = None) -> ASGIApp:
    """Return the web application of a service.

    Args:
        service: scores the X-rays.
        limits: limits on requests; None for the defaults.
    """
    queue = RequestQueue(service, limits or RequestLimits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await queue.warm_up()
        yield
        queue.close()

    app = FastAPI(
        title="cxrfeat", version=__version__, description=NOTICE, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.queue = queue
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    problems.install(app)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    _add_page(app, "/", templates.get_template("index.html.j2").render(card=service.card, examples=list_examples()))
    _add_page(app, "/docs", templates.get_template("docs.html.j2").render(document=app.openapi()))
    return SecurityHeaders(app)  # outermost: the framework handles unknown errors outside its own middleware


def load_app(settings: ServiceSettings, limits: RequestLimits) -> ASGIApp:
    """Load a service and return its web application; every worker process calls this once.

    Raises:
        CxrfeatError: same conditions as for :func:`cxrfeat.web.service.open_service`.
    """
    return create_app(open_service(settings), limits)


def _add_page(app: FastAPI, path: str, html: str) -> None:
    """Add a route that returns a page rendered once, at start-up."""

    async def page() -> HTMLResponse:
        return HTMLResponse(html)

    app.add_api_route(path, page, methods=["GET"], include_in_schema=False)


class SecurityHeaders:
    """ASGI middleware that adds security and cache headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to an HTTP response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY)
                # no-cache: browsers revalidate by ETag, so a page never runs the script of another version.
                headers["Cache-Control"] = "no-store" if scope["path"].startswith("/api/") else "no-cache"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
