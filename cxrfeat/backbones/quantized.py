"""Quantised networks: int8 models of OpenVINO in one file, written by ``cxrfeat quantize`` for ``--weights``.

The file is an uncompressed zip with ``model.xml``, ``model.bin`` and ``quantized.json``. Its sha256 identifies the
extractor, as it does for other weights.
"""

from __future__ import annotations

import json
import logging
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.openvino_runner import convert, import_openvino
from cxrfeat.backbones.weights import Weights, load_network
from cxrfeat.errors import ConfigError, WeightsError

FORMAT = 1

MIN_IMAGES = 100
"""Minimum number of images to calibrate with: fewer do not show the range of the activations."""

_MODEL, _TENSORS, _DESCRIPTION = "model.xml", "model.bin", "quantized.json"
_LIMITS = {_MODEL: 64 * 1024**2, _TENSORS: 4 * 1024**3, _DESCRIPTION: 1024**2}
"""Largest size of each entry in bytes."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every entry: two files of one model are equal."""


@dataclass(frozen=True)
class QuantizedDescription:
    """Origin and quality of a quantised network.

    Attributes:
        format: version of the file format.
        backbone: name of the network.
        input: name of its input; see :attr:`cxrfeat.images.preprocess.InputSpec.name`.
        weights_sha256: digest of the weights that were quantised.
        calibration_images: number of images that the scales were chosen on.
        test_images: number of other images that the cosines were measured on.
        cosine_min, cosine_median: cosines of the embeddings to those in fp32.
    """

    format: int
    backbone: str
    input: str
    weights_sha256: str
    calibration_images: int
    test_images: int
    cosine_min: float
    cosine_median: float


def find_quantized(weights: Weights) -> Path | None:
    """Return the path of a weights file that is a quantised network, whatever its name; None for other weights."""
    if weights.path is None or not zipfile.is_zipfile(weights.path):
        return None
    with zipfile.ZipFile(weights.path) as archive:
        return weights.path if _DESCRIPTION in archive.namelist() else None


def quantize(backbone: Backbone, weights: Weights, inputs: NDArray[np.uint8]) -> Any:
    """Quantise a network to int8.

    Args:
        backbone: the network with its input.
        weights: its weights.
        inputs: (N, size, size) uint8 model inputs that the scales are chosen on.

    Returns:
        An ``openvino.Model`` from (N, size, size) uint8 to the trunk's output.

    Raises:
        ConfigError: too few images, or nncf is not installed.

    Source: post-training quantisation of NNCF, mixed preset: symmetric weights, asymmetric activations.
    """
    if len(inputs) < MIN_IMAGES:
        raise ConfigError(f"{len(inputs)} images to calibrate with; expected at least {MIN_IMAGES}")
    import_openvino()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nncf has it look for a CUDA compiler
    try:
        import nncf  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError("cxrfeat quantize needs the package nncf: pip install 'cxrfeat[quantize]'") from error
    model = convert(backbone, load_network(backbone, weights))
    model.reshape([1, backbone.input.size, backbone.input.size])
    is_transformer = model.outputs[0].get_partial_shape().rank.get_length() == 2
    return nncf.quantize(
        model,
        nncf.Dataset([image[np.newaxis] for image in inputs]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
    )


def write_quantized(path: Path, model: Any, description: QuantizedDescription) -> None:
    """Write a quantised network; the file appears complete or not at all."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".quantize-") as folder:
        openvino.save_model(model, Path(folder) / _MODEL, compress_to_fp16=False)
        (Path(folder) / _DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")
        staged = Path(folder) / "staged.zip"
        with zipfile.ZipFile(staged, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in (_DESCRIPTION, _MODEL, _TENSORS):
                with (Path(folder) / name).open("rb") as source, archive.open(zipfile.ZipInfo(name, _EPOCH), "w") as to:
                    while block := source.read(1 << 20):
                        to.write(block)
        staged.replace(path)


def read_quantized(path: Path, backbone: Backbone) -> Any:
    """Read a quantised network as an ``openvino.Model``.

    Raises:
        WeightsError: the file is damaged, or was made for another backbone or input.
        ConfigError: openvino is not installed.
    """
    openvino = import_openvino()
    contents = _read(path)
    description = _parse(contents[_DESCRIPTION], path)
    for name, actual, expected in (
        ("backbone", backbone.name, description.backbone),
        ("input", backbone.input.name, description.input),
    ):
        if actual != expected:
            raise WeightsError(f"{path} is a quantised network with {name} {expected}; requested is {actual}")
    try:
        model = openvino.Core().read_model(contents[_MODEL], contents[_TENSORS])
        shape = model.outputs[0].get_partial_shape()
        dim = shape[1].get_length()
    except RuntimeError as error:
        raise WeightsError(f"cannot read the quantised network {path}: {str(error).splitlines()[0]}") from error
    if len(model.inputs) != 1 or dim != backbone.dim:
        raise WeightsError(f"{path} gives embeddings of {dim} numbers; expected {backbone.dim}")
    return model


def _read(path: Path) -> Mapping[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            problem = _find_problem(entries)
            contents = {} if problem else {name: archive.read(name) for name in _LIMITS}  # checks the CRCs
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"cannot read the quantised network {path}: {error}") from error
    if problem:
        raise WeightsError(f"cannot read the quantised network {path}: {problem}")
    return contents


def _find_problem(entries: Sequence[zipfile.ZipInfo]) -> str | None:
    """Return what is wrong with the directory of a file, before anything is allocated."""
    names = sorted(entry.filename for entry in entries)
    if names != sorted(_LIMITS):
        return f"it contains {', '.join(names)}; expected {', '.join(sorted(_LIMITS))}"
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            return f"{entry.filename} is compressed"
        if entry.file_size > _LIMITS[entry.filename]:
            return f"{entry.filename} has {entry.file_size} bytes; the limit is {_LIMITS[entry.filename]}"
    return None


def _parse(text: bytes, path: Path) -> QuantizedDescription:
    try:
        description = QuantizedDescription(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: {_DESCRIPTION} is damaged: {error}") from error
    if description.format != FORMAT:
        raise WeightsError(f"{path}: {_DESCRIPTION} has format {description.format!r}; expected {FORMAT}")
    return description
