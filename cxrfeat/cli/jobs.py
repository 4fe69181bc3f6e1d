"""Option groups and exit codes shared by the command lines of both jobs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cxrfeat import exits
from cxrfeat.backbones.registry import DEFAULT_BACKBONE
from cxrfeat.device import Device, Engine, Precision
from cxrfeat.images.preprocess import Fit

SAFE = "committed rounds are kept; run the same command to continue"
"""State of the output after a job that did not finish."""

EXIT_CODES = {
    exits.FAILED: f"failed ({SAFE})",
    exits.TOO_MANY_QUARANTINED: "done, but the quarantined share exceeds --max-quarantined",
    exits.TOO_MANY_UNMATCHED: "done, but the share of images without metadata, or of rejected metadata lines, exceeds "
    "--max-unmatched",
    exits.ALREADY_RUNNING: "another job is at work on the same output",
    exits.INTERRUPTED: f"interrupted ({SAFE})",
    exits.TERMINATED: f"terminated ({SAFE})",
}


def make_parser(
    prog: str, required: str, description: str, codes: Mapping[int, str] = EXIT_CODES
) -> argparse.ArgumentParser:
    """Return the parser of a command, with its exit codes in the help.

    Args:
        prog: name of the command.
        required: required arguments, for the usage line.
        description: text at the top of the help.
        codes: exit codes and their meaning; those of a job by default.
    """
    return argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        usage=f"{prog} {required} [options]",
        description=description,
        epilog=exits.epilog(codes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_metadata_options(group: argparse._ArgumentGroup, help_text: str) -> None:
    """Add the options that give the images their metadata."""
    group.add_argument("--metadata", nargs="+", default=(), metavar="CSV[.gz]", help=help_text)
    group.add_argument(
        "--webdataset-metadata",
        action="store_true",
        help="without --metadata: fields of the .json and .cls files beside the images in tar archives",
    )
    group.add_argument(
        "--image-feature",
        metavar="NAME",
        help="feature with the encoded image in TFRecord files (default: image, image/encoded, image_raw, …)",
    )
    group.add_argument(
        "--columns",
        metavar="TOML",
        help="column map of a metadata table of your own; tables of NIH, CheXpert, MIMIC-CXR-JPG, PadChest, VinDr and "
        "RSNA are recognised by their headers",
    )


def add_reading_options(group: argparse._ArgumentGroup) -> None:
    """Add the options with facts that image files do not contain."""
    group.add_argument(
        "--bits-stored",
        type=int,
        metavar="N",
        help="bits in use in 16-bit images, 9 to 16, for files that do not say it: 12 means that 4095 is white",
    )
    group.add_argument(
        "--any-dicom",
        action="store_true",
        help="accept DICOM images of any modality and body part (default: CR and DX of the chest)",
    )


def add_image_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of images in a job."""
    add_reading_options(group)
    group.add_argument(
        "--keep-patient-ids",
        action="store_true",
        help="store the patient IDs of DICOM headers as they are (default: as keyed hashes)",
    )
    group.add_argument(
        "--patient-key",
        metavar="FILE",
        help="key of these hashes, created if missing (default: cxrfeat/patient-key in your configuration folder)",
    )


def add_network_options(
    parser: argparse.ArgumentParser, *, default: str = DEFAULT_BACKBONE, note: str | None = None
) -> None:
    """Add the options of the network that embeds images; ``default`` describes the default backbone."""
    network = parser.add_argument_group("network", note)
    network.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"network, such as densenet121, timm:xception or xrv:densenet121-res224-all (default: {default}); "
        "'cxrfeat backbones' lists them",
    )
    network.add_argument(
        "--weights",
        metavar="PATH|NAME",
        help=".pth or .safetensors file or checkpoint, name of published weights (default: the backbone's first, "
        "downloaded unless cached) or 'random' for an untrained network",
    )
    network.add_argument(
        "--input-size", type=int, metavar="PIXELS", help="height and width of the network's input (default: its own)"
    )
    network.add_argument(
        "--fit",
        type=Fit,
        choices=list(Fit),
        help="how an image becomes a square: squash (default) resizes both sides, crop cuts off the ends of the longer "
        "side, pad adds black bars",
    )
    network.add_argument(
        "--precision",
        type=Precision,
        choices=list(Precision),
        default=Precision.AUTO,
        help="auto (default): bf16 if the device supports it natively, else fp32",
    )
    network.add_argument(
        "--device",
        type=Device,
        choices=list(Device),
        default=Device.AUTO,
        help="auto (default): GPU if the task has one, else CPU; cuda: GPU, or an error without one",
    )
    network.add_argument(
        "--engine",
        type=Engine,
        choices=list(Engine),
        help="torch (default), or openvino, which is faster on CPUs (pip install 'cxrfeat[openvino]')",
    )
    network.add_argument(
        "--batch-size", type=int, metavar="N", help="images per batch (default: 16 on a CPU, 128 on a GPU)"
    )


def add_work_options(parser: argparse.ArgumentParser, *, round_size: int, unit: str) -> argparse._ArgumentGroup:
    """Add the options of rounds and limits, and return their group; ``unit`` is the plural noun of what is counted."""
    work = parser.add_argument_group("work")
    work.add_argument(
        "--round-size", type=int, default=round_size, metavar="N", help=f"{unit} per commit (default {round_size})"
    )
    work.add_argument(
        "--watch", type=float, metavar="SECONDS", help=f"check for new {unit} at this interval until interrupted"
    )
    work.add_argument(
        "--max-quarantined",
        type=to_fraction,
        default=0.01,
        metavar="FRACTION",
        help=f"exit with code 3 if more than this fraction of all {unit} is quarantined (default 0.01)",
    )
    return work


def to_fraction(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}; expected a fraction from 0 to 1")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job that finished.

    Attributes:
        text: summary for the terminal.
        quarantined: quarantined share of the listed files, 0 to 1.
        unmatched: problem of images without metadata or of rejected lines, if it exceeds the limit; else None.
        table: folder of the table whose rows with ``status=quarantined`` give the reasons.
    """

    text: str
    quarantined: float
    table: str
    unmatched: str | None = None


def run(job: Callable[[], Outcome], *, max_quarantined: float) -> int:
    """Run a job, print its outcome or its error, and return the exit code."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cxrfeat").setLevel(logging.INFO)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that are reported in one line

    def command() -> int:
        outcome = job()
        print(outcome.text)
        if outcome.quarantined <= max_quarantined:
            if outcome.unmatched is None:
                return exits.DONE
            print(f"error: the job is complete, but {outcome.unmatched}", file=sys.stderr)
            return exits.TOO_MANY_UNMATCHED
        share, limit = f"{outcome.quarantined:.2%}", f"{max_quarantined:.2%}"
        print(
            f"error: the job is complete, but {share} of the input is quarantined; --max-quarantined allows {limit}. "
            f"See the columns reason and message in {outcome.table}/round=*/status=quarantined",
            file=sys.stderr,
        )
        return exits.TOO_MANY_QUARANTINED

    return exits.run(command, interrupted=SAFE)
