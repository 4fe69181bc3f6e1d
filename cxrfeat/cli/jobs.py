"""What the jobs' command lines share: option groups, and how a job ends."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cxrfeat import exits
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.device import Device, Precision

SAFE = "committed rounds are safe, run the same command to go on"
"""What is left of a job that has not come to its end."""

EXIT_CODES = {
    exits.FAILED: f"failed on the way; {SAFE}",
    exits.TOO_MANY_QUARANTINED: "done, but more is in quarantine than --max-quarantined allows",
    exits.INTERRUPTED: "interrupted; as 1",
}


def make_parser(prog: str, required: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a job, with its exit codes in the help.

    Args:
        prog: how the user started the job.
        required: the required options, for the usage line.
        description: for the top of the help.
    """
    return argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        usage=f"{prog} {required} [options]",
        description=description,
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_network_options(parser: argparse.ArgumentParser, *, note: str | None = None) -> None:
    """Add what decides an embedding, and where it is computed."""
    network = parser.add_argument_group("network", note)
    network.add_argument(
        "--backbone",
        choices=sorted(BACKBONES),
        default="resnet50",
        help="resnet50: torchvision's layout (default); resnet50-v1: stride in the 1x1 convolution, for weights that "
        "come from Keras or Caffe",
    )
    network.add_argument(
        "--weights",
        metavar="PATH|NAME",
        help="a .pth or .safetensors file, a torchvision name (default IMAGENET1K_V1, from its cache or download), or "
        "'random' for trying things out",
    )
    network.add_argument(
        "--precision",
        type=Precision,
        choices=list(Precision),
        default=Precision.AUTO,
        help="auto (default): bf16 where the device computes it natively, else fp32",
    )
    network.add_argument(
        "--device",
        type=Device,
        choices=list(Device),
        default=Device.AUTO,
        help="auto (default): a GPU where the task has one; cuda: a GPU or an error",
    )
    network.add_argument(
        "--batch-size", type=int, metavar="N", help="images at once in the network (default: 16 on a CPU, 128 on a GPU)"
    )


def add_work_options(parser: argparse.ArgumentParser, *, round_size: int, unit: str) -> argparse._ArgumentGroup:
    """Add how the work is cut and when it stops, and return the group; ``unit`` is what a round is made of."""
    work = parser.add_argument_group("work")
    work.add_argument(
        "--round-size", type=int, default=round_size, metavar="N", help=f"{unit} a commit (default {round_size})"
    )
    work.add_argument(
        "--watch", type=float, metavar="SECONDS", help=f"look for new {unit} this often, until interrupted"
    )
    work.add_argument(
        "--max-quarantined",
        type=_to_share,
        default=0.01,
        metavar="FRACTION",
        help=f"of all {unit} listed; more end in exit code 3 (default 0.01)",
    )
    return work


def _to_share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}; expected a share from 0 to 1")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        text: what the output holds, for people.
        quarantined: share of what was listed that is in quarantine, 0 to 1.
        where: the folder whose rows with ``status=quarantined`` say why.
    """

    text: str
    quarantined: float
    where: str


def run(job: Callable[[], Outcome], *, max_quarantined: float) -> int:
    """Run a job, print its outcome or its error, and return the exit code."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cxrfeat").setLevel(logging.INFO)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs the traceback of what we report below

    def command() -> int:
        outcome = job()
        print(outcome.text)
        if outcome.quarantined <= max_quarantined:
            return exits.DONE
        share, limit = f"{outcome.quarantined:.2%}", f"{max_quarantined:.2%}"
        print(
            f"error: all is done and written, but {share} are in quarantine; --max-quarantined allows {limit}. "
            f"Which, and why: columns reason and message in {outcome.where}/round=*/status=quarantined",
            file=sys.stderr,
        )
        return exits.TOO_MANY_QUARANTINED

    return exits.run(command, interrupted=SAFE)
