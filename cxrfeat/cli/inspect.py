"""Command line of ``cxrfeat inspect``: what the readers see in image files, and why one is in quarantine."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from cxrfeat import exits
from cxrfeat.backbones.registry import DEFAULT_BACKBONE, get_backbone
from cxrfeat.cli import jobs
from cxrfeat.errors import ImageError
from cxrfeat.images.decode import decode_image, name_format
from cxrfeat.images.decoded_image import MAX_FILE_BYTES, Radiograph, ReadOptions
from cxrfeat.images.preprocess import Fit, InputSpec, to_model_input
from cxrfeat.io.schema import Reason

DESCRIPTION = """\
Print what the readers see in image files: format, size, bits, range, DICOM header, and the verdict.

The verdict is that of 'cxrfeat extract' with the same options: ok, or the reason of the quarantine."""

EXIT_CODES = {exits.TOO_MANY_QUARANTINED: "at least one file would be quarantined"}


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = jobs.make_parser(prog, "FILE...", DESCRIPTION, EXIT_CODES)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="image file")
    reading = parser.add_argument_group("reading")
    jobs.add_reading_options(reading)
    output = parser.add_argument_group("model input")
    output.add_argument("--write", type=Path, metavar="DIR", help="write the network's input of each file as a PNG")
    output.add_argument(
        "--backbone", default=DEFAULT_BACKBONE, metavar="NAME", help=f"its network (default: {DEFAULT_BACKBONE})"
    )
    output.add_argument("--input-size", type=int, metavar="PIXELS", help="height and width of its input")
    output.add_argument("--fit", type=Fit, choices=list(Fit), help="how an image becomes a square")
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat inspect") -> int:
    """Run the command and return its exit code."""
    options = build_parser(prog).parse_args(argv)
    return exits.run(lambda: _inspect_all(options), interrupted="nothing was changed")


def _inspect_all(options: argparse.Namespace) -> int:
    reading = ReadOptions(bits_stored=options.bits_stored, any_dicom=options.any_dicom)
    spec = get_backbone(options.backbone).with_input(options.input_size, options.fit).input
    refused = 0
    for path in options.files:
        print(path)
        try:
            data = _read(path)
            print(*_describe_file(data), sep="\n")
            image = decode_image(data, reading)
        except ImageError as error:
            refused += 1
            print(f"  verdict        quarantined as {error.reason}", f"  reason         {error}", sep="\n")
            continue
        print(*_describe_image(image), "  verdict        ok", sep="\n")
        if options.write is not None:
            print(f"  model input    {_write(image, path, options.write, spec)}")
    return exits.TOO_MANY_QUARANTINED if refused else exits.DONE


def _read(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ImageError: the file is missing, is not a regular file, cannot be read or is too large.
    """
    if not path.exists():
        raise ImageError(Reason.MISSING, "no such file")
    if not path.is_file():
        raise ImageError(Reason.UNREADABLE, "not a regular file")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"{path.stat().st_size} bytes; the limit is {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(Reason.UNREADABLE, str(error.strerror)) from error


def _describe_file(data: bytes) -> Iterator[str]:
    yield f"  format         {name_format(data) or 'unknown'}"
    yield f"  bytes          {len(data):,}, sha256 {hashlib.sha256(data).hexdigest()}"


def _describe_image(image: Radiograph) -> Iterator[str]:
    height, width = image.pixels.shape
    white = 255 if image.pixels.dtype == "uint8" else 65535
    yield f"  size           {width} × {height} pixels"
    yield f"  pixels         {image.pixel_format}"
    yield f"  range          {image.pixels.min()} to {image.pixels.max()}; black is 0, white is {white}"
    if image.header is not None:
        facts = {name: value for name, value in vars(image.header).items() if value is not None}
        for name, value in facts.items():
            yield f"  {name.replace('_', ' '):<14} {value}"


def _write(image: Radiograph, path: Path, folder: Path, spec: InputSpec) -> Path:
    """Write the network's input as a PNG, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.name}.png"
    Image.fromarray(to_model_input(image.pixels, spec)).save(target)
    return target
