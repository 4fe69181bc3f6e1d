"""``python -m cxrfeat.phantom``: write a set of phantom radiographs to a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrfeat import exits
from cxrfeat.phantom.archive import write_archive

PROG = "python -m cxrfeat.phantom"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Draw phantom chest radiographs into a folder laid out as the ChestX-ray14 archives are. "
        "The same seed and size give the same files; a larger --count adds to a set and keeps what is there. "
        "Phantoms carry no diagnostic meaning.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    # Without a default, so that the help says none.
    needed: dict[str, Any] = {"required": True, "default": argparse.SUPPRESS}
    add("--count", type=int, **needed, help="images in the set, at least 1")
    add("--output", type=Path, **needed, help="folder to write: new, empty, or an earlier set to grow")
    add("--seed", type=int, default=0, help="seed of the set, at least 0")
    add("--size", type=int, default=1024, help="pixels a side, at least 64")
    add("--workers", type=int, default=1, help="processes that draw, at least 1")
    return parser


def main(arguments: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; return the exit code."""
    options = vars(_parser(prog).parse_args(arguments))

    def draw() -> int:
        print(write_archive(options.pop("output"), options.pop("count"), **options))
        return exits.DONE

    return exits.run(draw, interrupted="the same command goes on")


if __name__ == "__main__":
    raise SystemExit(main())
