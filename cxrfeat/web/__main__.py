"""Command ``python -m cxrfeat.web``: serve the web page and its JSON API."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from cxrfeat import exits
from cxrfeat.device import Engine, Precision
from cxrfeat.errors import ConfigError
from cxrfeat.head.thresholds import DEFAULT_RULE, RULES
from cxrfeat.web.app import load_app
from cxrfeat.web.request_queue import RequestLimits
from cxrfeat.web.service import ServiceSettings, open_service

PROG = "python -m cxrfeat.web"

EXIT_CODES = {exits.DONE: "stopped", exits.FAILED: "failed, for example because the port is in use"}

_MAX_PORT = 65535

_WORKER_START_S = 120
"""Seconds that a worker process has to load its network."""


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    defaults = RequestLimits()
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Serve a web page that shows calibrated probabilities and heat maps for an uploaded X-ray.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("model").add_argument
    add("--head", required=True, metavar="DIR_OR_URI", help="bundle written by head_training.fit: RUN/head")
    add(
        "--weights",
        metavar="FILE_OR_NAME",
        help="backbone weights, the same that the head was trained with (default: the published ones)",
    )
    add("--backbone", metavar="NAME", help="default: the backbone that the head was trained with")
    add(
        "--precision",
        type=Precision,
        choices=list(Precision),
        default=Precision.AUTO,
        help="auto (default): bf16 where native",
    )
    add("--engine", type=Engine, choices=list(Engine), help="torch (default), or openvino, which is faster on CPUs")
    add(
        "--operating-point",
        default=DEFAULT_RULE,
        metavar="RULE",
        help=f"threshold rule, one of {', '.join(RULES)} (default {DEFAULT_RULE})",
    )
    add("--evaluation", type=Path, metavar="EVAL", help="output of head_training.evaluate; adds intervals to the card")
    add = parser.add_argument_group("service").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=int, default=8000, help="default 8000; 0 picks any free port")
    add("--workers", type=int, default=1, metavar="N", help="processes, each with its own model (default 1)")
    add("--threads", type=int, metavar="N", help="CPU threads per process (default: all cores, divided evenly)")
    add(
        "--in-flight",
        type=int,
        default=defaults.in_flight,
        metavar="N",
        help=f"maximum concurrent requests per process; more get status 503 (default {defaults.in_flight})",
    )
    add(
        "--max-upload-mb",
        type=float,
        default=defaults.upload_bytes / 2**20,
        metavar="MB",
        help=f"largest upload (default {defaults.upload_bytes / 2**20:g})",
    )
    return parser


def parse(argv: Sequence[str] | None, prog: str = PROG) -> tuple[ServiceSettings, RequestLimits, argparse.Namespace]:
    """Parse the command line into the service's settings, the request limits and all options.

    Raises:
        ConfigError: a value is out of range.
    """
    options = build_parser(prog).parse_args(argv)
    for name in ("workers", "threads", "in_flight", "max_upload_mb"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} {value}; expected more than 0")
    if not 0 <= options.port <= _MAX_PORT:
        raise ConfigError(f"--port {options.port}; expected 0 (any free port) to {_MAX_PORT}")
    settings = ServiceSettings(
        head=options.head,
        weights=options.weights,
        backbone=options.backbone,
        precision=options.precision,
        operating_point=options.operating_point,
        evaluation=options.evaluation,
        engine=options.engine,
        threads=options.threads or max(1, (os.cpu_count() or 1) // options.workers),
    )
    limits = RequestLimits(upload_bytes=int(options.max_upload_mb * 2**20), in_flight=options.in_flight)
    return settings, limits, options


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; return the exit code."""
    return exits.run(lambda: _serve(argv, prog), interrupted="nothing was served")


def _serve(argv: Sequence[str] | None, prog: str) -> int:
    # Ctrl-C is the normal end: uvicorn shuts down in order, then re-raises it.
    with contextlib.suppress(KeyboardInterrupt):
        settings, limits, options = parse(argv, prog)
        check_address(options.host, options.port)
        print(f"loading head {settings.head} and its backbone", file=sys.stderr)
        serve(settings, limits, options)
    return exits.DONE


def check_address(host: str, port: int) -> None:
    """Check that the server can listen on an address, before the models are loaded.

    Raises:
        OSError: the address is in use or unavailable; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        number = error.errno or 0  # negative for a host name that does not resolve
        cause = os.strerror(number) if number > 0 else str(error)
        raise OSError(f"cannot listen on --host {host} --port {port}: {cause}") from error


def serve(settings: ServiceSettings, limits: RequestLimits, options: argparse.Namespace) -> None:
    """Serve until stopped.

    Raises:
        CxrfeatError: the head, the weights or the evaluation are invalid.
        SystemExit: the port is unavailable.
    """
    config = uvicorn.Config(
        functools.partial(load_app, settings, limits),
        factory=True,
        host=options.host,
        port=options.port,
        workers=options.workers,
        timeout_worker_healthcheck=_WORKER_START_S,
        access_log=False,  # the query string holds the age and sex of a patient
    )
    if options.workers == 1:
        uvicorn.Server(config).run()
        return
    open_service(settings)  # each worker loads its own; this call reports an error once, before they start
    Multiprocess(config, [config.bind_socket()]).run()


if __name__ == "__main__":
    sys.exit(main())
