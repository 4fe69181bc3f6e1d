"""Command ``cxrfeat quantize``: turn a frozen network into an int8 one that is faster on CPUs."""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrfeat import exits
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.quantized import (
    FORMAT,
    MIN_IMAGES,
    QuantizedDescription,
    find_quantized,
    quantize,
    write_quantized,
)
from cxrfeat.backbones.registry import DEFAULT_BACKBONE, get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Precision
from cxrfeat.errors import ConfigError, WeightsError
from cxrfeat.images.preprocess import Fit, InputSpec
from cxrfeat.io import storage
from cxrfeat.io.refs import is_whole
from cxrfeat.pipeline.embed import prepare
from cxrfeat.pipeline.image_source import ImageLister

DESCRIPTION = """\
Quantise a frozen network to int8 with OpenVINO. It then runs about twice as fast on a CPU. Its embeddings are close to
those in fp32, but not equal: train a head on the embeddings of the quantised network.

Three quarters of the images choose the scales; the others measure the cosines to the embeddings in fp32. Use the output
as --weights of extract, score and serve, with the same --backbone."""

TEST_SHARE = 0.25
"""Share of the images that measure the cosines."""

EXIT_CODES = {exits.DONE: "written", exits.FAILED: "failed", exits.INVALID_INPUT: "invalid input"}


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description=DESCRIPTION,
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", required=True, metavar="DIR_OR_URI", help="folder of X-rays like those to be embedded")
    add("--output", required=True, type=Path, metavar="FILE", help="file to write")
    add("--backbone", default=DEFAULT_BACKBONE, metavar="NAME", help=f"network (default {DEFAULT_BACKBONE})")
    add("--weights", metavar="PATH|NAME", help="weights of the network (default: the published ones)")
    add("--input-size", type=int, metavar="PIXELS", help="height and width of the network's input (default: its own)")
    add("--fit", type=Fit, choices=list(Fit), help="how an image becomes a square (default: squash)")
    add("--count", type=int, default=400, metavar="N", help="use at most N images, drawn at random (default 400)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the draw (default 0)")
    add(
        "--min-cosine",
        type=float,
        default=0.95,
        metavar="C",
        help="write nothing if an embedding of a test image has a smaller cosine to fp32 (default 0.95)",
    )
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat quantize") -> int:
    """Run the command and return the exit code."""
    options = build_parser(prog).parse_args(argv)

    def command() -> int:
        backbone = get_backbone(options.backbone).with_input(options.input_size, options.fit)
        weights = find_weights(backbone, options.weights)
        if find_quantized(weights):
            raise WeightsError(f"{weights.path} is quantised already; give the weights that it was made from")
        if not options.output.absolute().parent.is_dir() or options.output.is_dir():
            raise ConfigError(f"--output {options.output}; expected a file in a folder that exists")
        inputs = _read_inputs(storage.qualify(options.images), backbone.input, options.count, options.seed)
        tests = round(TEST_SHARE * len(inputs))
        spec = EncoderSpec(backbone.name, weights, Precision.FP32, input_size=options.input_size, fit=options.fit)
        print(f"choosing the scales of {spec.fingerprint} on {len(inputs) - tests} images", file=sys.stderr)
        model = quantize(backbone, weights, inputs[tests:])
        description = QuantizedDescription(
            FORMAT, backbone.name, backbone.input.name, weights.digest, len(inputs) - tests, tests, 0.0, 0.0
        )
        with tempfile.TemporaryDirectory(dir=options.output.absolute().parent, prefix=".quantize-") as folder:
            trial = Path(folder) / "trial"
            write_quantized(trial, model, description)
            quantized = replace(spec, weights=find_weights(backbone, str(trial)))
            cosines = compare(FrozenEncoder(spec), FrozenEncoder(quantized), inputs[:tests])  # (tests,)
        lowest, median = float(cosines.min()), float(np.median(cosines))
        measured = f"cosine to fp32 over {tests} test images: minimum {lowest:.4f}, median {median:.4f}"
        if lowest < options.min_cosine:
            raise ConfigError(f"{measured}; --min-cosine allows {options.min_cosine}. Nothing was written")
        write_quantized(options.output, model, replace(description, cosine_min=lowest, cosine_median=median))
        written = replace(spec, weights=find_weights(backbone, str(options.output)))
        print(f"{measured}\nwrote {options.output}; its extractor is {written.fingerprint}")
        return exits.DONE

    return exits.run(command, interrupted="nothing was written")


def compare(one: FrozenEncoder, other: FrozenEncoder, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the (N,) cosines of the embeddings of two encoders for (N, size, size) inputs."""
    first, second = one.embed(inputs), other.embed(inputs)  # (N, dim) each
    products = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float32] = (first * second).sum(axis=1) / products
    return cosines


def _read_inputs(images: str, spec: InputSpec, count: int, seed: int) -> NDArray[np.uint8]:
    """Return the (N, size, size) model inputs of at most ``count`` images, in a random order.

    Raises:
        ConfigError: too few images can be read.
    """
    needed = math.ceil(MIN_IMAGES / (1 - TEST_SHARE)) + 1
    items = [item for item in ImageLister(images)().items if not is_whole(item)]
    random.Random(seed).shuffle(items)  # noqa: S311 -- a draw of images, not a secret
    inputs: list[NDArray[np.uint8]] = []
    unreadable = 0
    for item in items:
        if len(inputs) == count:
            break
        prepared = prepare(item, images, spec)
        if prepared.model_input is None:
            unreadable += 1
        else:
            inputs.append(prepared.model_input)
    if unreadable:
        print(f"left out {unreadable} unreadable images", file=sys.stderr)
    if len(inputs) < needed:
        raise ConfigError(
            f"{len(inputs)} readable images in {images}; expected at least {needed}: {MIN_IMAGES} choose the scales, "
            "and a quarter of all measures the cosines"
        )
    return np.stack(inputs)
