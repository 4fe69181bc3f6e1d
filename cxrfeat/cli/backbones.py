"""Command ``cxrfeat backbones``: list the frozen networks, their inputs and their weights."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence

from cxrfeat import exits
from cxrfeat.backbones import timm_models, xrv_models
from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.registry import BACKBONES, DEFAULT_BACKBONE, get_backbone
from cxrfeat.errors import ConfigError

DESCRIPTION = """\
List the frozen networks that --backbone accepts, their inputs and their weights.

Without a PATTERN: the networks of torchvision, which need no further package, and those of torchxrayvision. timm has
about a thousand networks, so they are listed by pattern: cxrfeat backbones 'timm:*densenet*'."""

HEADER = ("name", "dim", "input", "M params", "embedding", "licence", "weights")

_PACKAGES = {"timm": ("timm", "timm"), "xrv": ("torchxrayvision", "xrv")}
"""Package and extra of each prefix."""


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="shell pattern of names, such as 'timm:vit_*'")
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat backbones") -> int:
    """Print the table and return the exit code: 2 if no network matches the pattern."""
    pattern = build_parser(prog).parse_args(argv).pattern

    def command() -> int:
        rows = [_describe(backbone) for backbone in _select(pattern)]
        widths = [max(len(row[column]) for row in (HEADER, *rows)) for column in range(len(HEADER))]
        for row in (HEADER, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if pattern is None:
            print()
            for prefix in _PACKAGES:
                print(_describe_source(prefix))
        return exits.DONE

    return exits.run(command, interrupted="nothing was changed")


def _select(pattern: str | None) -> Iterator[Backbone]:
    """Yield the networks whose names match, the default first.

    Raises:
        ConfigError: the pattern matches none.
    """
    found = fnmatch.filter([*BACKBONES, *(f"xrv:{model}" for model in xrv_models.list_models())], pattern or "*")
    if pattern is not None and pattern.startswith("timm:"):
        found += [f"timm:{model}" for model in timm_models.list_models(pattern.removeprefix("timm:"))]
    if not found:
        prefix = (pattern or "").partition(":")[0]
        hint = f"; {_describe_source(prefix)}" if prefix in _PACKAGES else ""
        raise ConfigError(f"no backbone matches {pattern!r}{hint}")
    for name in sorted(found, key=lambda name: (name != DEFAULT_BACKBONE, ":" in name, name)):
        try:
            yield get_backbone(name)
        except ConfigError as error:  # a model of timm whose input is not a square of three channels
            print(f"left out: {error}", file=sys.stderr)


def _describe(backbone: Backbone) -> tuple[str, ...]:
    return (
        backbone.name,
        str(backbone.dim),
        backbone.input.name,
        f"{backbone.parameters / 1e6:.1f}",
        backbone.pooling,
        backbone.licence,
        _describe_weights(backbone),
    )


def _describe_weights(backbone: Backbone) -> str:
    published = backbone.published
    if published is None or not published.names:
        return "from a file (--weights)"
    name = published.names[0]
    cached = published.cached(name).is_file()
    return f"{name}, {'in the cache' if cached else f'download from {published.host}'}"


def _describe_source(prefix: str) -> str:
    package, extra = _PACKAGES[prefix]
    if importlib.util.find_spec(package) is None:
        return f"{prefix}:MODEL needs the package {package}: pip install 'cxrfeat[{extra}]'"
    example = {"timm": "cxrfeat backbones 'timm:*densenet*'", "xrv": "cxrfeat backbones 'xrv:*'"}[prefix]
    return f"{prefix}:MODEL: {package} {importlib.metadata.version(package)} is installed; {example} lists its networks"
