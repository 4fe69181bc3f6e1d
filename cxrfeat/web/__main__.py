"""``python -m cxrfeat.web``: a page that takes an X-ray and shows what a head says of it, and why."""

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
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.device import Precision
from cxrfeat.errors import ConfigError
from cxrfeat.head.thresholds import DEFAULT_RULE, RULES
from cxrfeat.web.app import load_app
from cxrfeat.web.request_queue import RequestLimits
from cxrfeat.web.service import ServiceSettings, open_service

PROG = "python -m cxrfeat.web"

EXIT_CODES = {exits.DONE: "stopped", exits.FAILED: "failed on the way, such as a port that is taken"}

_PORTS = 65535

_WORKER_START_S = 120
"""Seconds in which a worker process must have loaded its network."""


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the command line."""
    defaults = RequestLimits()
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Open a page that takes an X-ray and shows 14 calibrated probabilities and where they come from.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("model").add_argument
    add("--head", required=True, metavar="DIR_OR_URI", help="bundle of head_training.fit: RUN/head")
    add(
        "--weights",
        metavar="FILE_OR_NAME",
        help="of the backbone, those that the head was trained with (default: torchvision's)",
    )
    add("--backbone", choices=sorted(BACKBONES), default="resnet50", help="default resnet50")
    add(
        "--precision",
        type=Precision,
        choices=list(Precision),
        default=Precision.AUTO,
        help="auto (default): bf16 where native",
    )
    add(
        "--operating-point",
        default=DEFAULT_RULE,
        metavar="RULE",
        help=f"rule of the thresholds, one of {', '.join(RULES)} (default {DEFAULT_RULE})",
    )
    add("--evaluation", type=Path, metavar="EVAL", help="of head_training.evaluate: the model card gets intervals")
    add = parser.add_argument_group("service").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    add("--port", type=int, default=8000, help="default 8000; 0 takes any free one")
    add("--workers", type=int, default=1, metavar="N", help="processes, each with its own model (default 1)")
    add("--threads", type=int, metavar="N", help="of the network in each process (default: all cores, shared evenly)")
    add(
        "--in-flight",
        type=int,
        default=defaults.in_flight,
        metavar="N",
        help=f"requests that a process takes at once, before it answers 503 (default {defaults.in_flight})",
    )
    add(
        "--max-upload-mb",
        type=float,
        default=defaults.upload_bytes / 2**20,
        metavar="MB",
        help=f"largest file (default {defaults.upload_bytes / 2**20:g})",
    )
    return parser


def parse(argv: Sequence[str] | None, prog: str = PROG) -> tuple[ServiceSettings, RequestLimits, argparse.Namespace]:
    """Turn the command line into what is to be served.

    Raises:
        ConfigError: values that can't be carried out.
    """
    options = build_parser(prog).parse_args(argv)
    for name in ("workers", "threads", "in_flight", "max_upload_mb"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} {value}; expected more than 0")
    if not 0 <= options.port <= _PORTS:
        raise ConfigError(f"--port {options.port}; expected 0 (any free one) to {_PORTS}")
    settings = ServiceSettings(
        head=options.head,
        weights=options.weights,
        backbone=options.backbone,
        precision=options.precision,
        operating_point=options.operating_point,
        evaluation=options.evaluation,
        threads=options.threads or max(1, (os.cpu_count() or 1) // options.workers),
    )
    limits = RequestLimits(upload_bytes=int(options.max_upload_mb * 2**20), in_flight=options.in_flight)
    return settings, limits, options


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; return the exit code."""
    return exits.run(lambda: _serve(argv, prog), interrupted="nothing was served")


def _serve(argv: Sequence[str] | None, prog: str) -> int:
    # How it is stopped: uvicorn has shut down in order, and raises it again.
    with contextlib.suppress(KeyboardInterrupt):
        settings, limits, options = parse(argv, prog)
        check_address(options.host, options.port)
        print(f"loading {settings.backbone} and the head {settings.head}", file=sys.stderr)
        serve(settings, limits, options)
    return exits.DONE


def check_address(host: str, port: int) -> None:
    """Check that an address can be listened on, before seconds go into loading.

    Raises:
        OSError: it can't; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        number = error.errno or 0  # below 0: a name that nobody knows
        cause = os.strerror(number) if number > 0 else str(error)
        raise OSError(f"--host {host} --port {port} can't be listened on: {cause}") from error


def serve(settings: ServiceSettings, limits: RequestLimits, options: argparse.Namespace) -> None:
    """Serve until stopped.

    Raises:
        CxrfeatError: what is to be served can't be used.
        SystemExit: the port can't be had.
    """
    config = uvicorn.Config(
        functools.partial(load_app, settings, limits),
        factory=True,
        host=options.host,
        port=options.port,
        workers=options.workers,
        timeout_worker_healthcheck=_WORKER_START_S,
        access_log=False,  # an address may hold an age
    )
    if options.workers == 1:
        uvicorn.Server(config).run()
        return
    open_service(settings)  # the workers load their own; but what is wrong is said here, and once
    Multiprocess(config, [config.bind_socket()]).run()


if __name__ == "__main__":
    sys.exit(main())
