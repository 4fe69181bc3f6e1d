"""Command ``python -m cxrfeat.phantom``: write a set of phantom radiographs to a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cxrfeat import exits
from cxrfeat.phantom.archive import write_archive

PROG = "python -m cxrfeat.phantom"


def _parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Draw phantom chest radiographs into a folder with the layout of the ChestX-ray14 archives. "
        "The same seed and size give the same files; a larger --count extends a set and keeps its files. "
        "Phantoms have no diagnostic meaning.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--count", type=int, required=True, default=argparse.SUPPRESS, help="images in the set, at least 1")
    add("--output", type=Path, required=True, default=argparse.SUPPRESS, help="folder: new, empty, or a set to extend")
    add("--seed", type=int, default=0, help="seed of the set, at least 0")
    add("--size", type=int, default=1024, help="pixels per side, at least 64")
    add("--workers", type=int, default=1, help="drawing processes, at least 1")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; return the exit code."""
    options = _parse(arguments, prog)

    def write() -> int:
        print(write_archive(**vars(options)))
        return exits.DONE

    return exits.run(write, interrupted="run the same command again to continue")


if __name__ == "__main__":
    raise SystemExit(main())
