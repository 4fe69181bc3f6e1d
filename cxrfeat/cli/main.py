"""Dispatch the console command ``cxrfeat`` to its subcommands.

A subcommand is imported when it is run: ``cxrfeat --help`` loads neither torch nor pyspark.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrfeat import NOTICE, __version__, exits


@dataclass(frozen=True)
class Command:
    """A subcommand of ``cxrfeat``.

    Attributes:
        module: module whose ``main(argv, *, prog)`` runs the command.
        summary: one line for ``cxrfeat --help``.
        extra: optional extra that the command needs, or None.
    """

    module: str
    summary: str
    extra: str | None = None


COMMANDS: Mapping[str, Command] = {
    "extract": Command("cxrfeat.cli.extract", "embed a folder of chest X-rays into Parquet"),
    "fit": Command("head_training.fit", "train a head, or a grid of heads, on embeddings"),
    "evaluate": Command("head_training.evaluate", "measure predictions against ground truth"),
    "report": Command("head_training.report.__main__", "write an HTML report on data, training and evaluation"),
    "score": Command("cxrfeat.cli.score", "score Parquet drops of embeddings, or images"),
    "serve": Command("cxrfeat.web.__main__", "serve a web page that scores one X-ray at a time", extra="web"),
    "phantom": Command("cxrfeat.phantom.__main__", "draw synthetic chest X-rays with labels"),
    "demo": Command("cxrfeat.demo", "run all steps on synthetic X-rays"),
    "quantize": Command("cxrfeat.cli.quantize", "make an int8 network that is faster on CPUs", extra="quantize"),
    "inspect": Command("cxrfeat.cli.inspect", "print what the readers see in image files"),
    "backbones": Command("cxrfeat.cli.backbones", "list the frozen networks and their weights"),
    "doctor": Command("cxrfeat.cli.doctor", "check the installation and name what is missing"),
}
"""Subcommands in the order in which they are used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    Args:
        argv: arguments without the program's name; None takes those of the process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    name = _build_parser().parse_args(words[:1]).command
    command = COMMANDS[name]
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        # A module of the project that is missing is a bug, not an extra that is not installed.
        if command.extra is None or (error.name or "").partition(".")[0] in ("cxrfeat", "head_training"):
            raise
        print(
            f"error: cxrfeat {name} needs the package {error.name!r}: pip install 'cxrfeat[{command.extra}]'",
            file=sys.stderr,
        )
        return exits.INVALID_INPUT
    return int(module.main(words[1:], prog=f"cxrfeat {name}"))


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listed = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="cxrfeat",
        usage="cxrfeat COMMAND [options]",
        description="Extract features from chest X-rays, train a classifier on them, and score new images.",
        epilog="\n".join(["commands:", *listed, "", "cxrfeat COMMAND --help lists the options of a command.", NOTICE]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cxrfeat {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser
