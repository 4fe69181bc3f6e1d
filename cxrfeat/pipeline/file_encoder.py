"""Embed image files without Spark: the Python counterpart of ``cxrfeat extract``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder, check_encoder
from cxrfeat.backbones.registry import DEFAULT_BACKBONE, get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Device, Engine, Precision, find_device
from cxrfeat.errors import ConfigError, ImageError
from cxrfeat.images.decoded_image import DEFAULT_OPTIONS, ReadOptions
from cxrfeat.images.preprocess import Fit, InputSpec
from cxrfeat.io.file_names import to_text
from cxrfeat.io.refs import ImageRef
from cxrfeat.pipeline.embed import prepare


class FileEncoder:
    """A frozen network that embeds image files; made by :func:`load_encoder`.

    Attributes:
        dim: length of an embedding.
        fingerprint: identifies backbone, weights and input; equal to the column ``extractor`` of the jobs.
        precision: ``fp32``, ``bf16`` or ``int8``.
        input: input of the network.
    """

    def __init__(self, encoder: FrozenEncoder, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        """Use an encoder, and facts that the files do not say."""
        self._encoder = encoder
        self._options = options
        self.dim: int = encoder.dim
        self.fingerprint: str = encoder.fingerprint
        self.precision: str = encoder.precision
        self.input: InputSpec = encoder.input

    def embed_files(
        self, paths: Iterable[str | os.PathLike[str]], *, on_error: Literal["raise", "nan"] = "raise"
    ) -> NDArray[np.float32]:
        """Embed image files in the order given.

        The embeddings equal those of ``cxrfeat extract`` with the same backbone, weights, input, precision and batch
        size, bit for bit.

        Args:
            paths: image files.
            on_error: ``raise``, or ``nan`` for a row of NaN where a file cannot be read as an X-ray.

        Returns:
            (N, dim) float32.

        Raises:
            ImageError: a file is no readable X-ray, and ``on_error`` is ``raise``; the message names the file.
            ValueError: ``on_error`` is neither of the two.

        Example:
            >>> load_encoder("resnet18", weights="random").embed_files([])
            array([], shape=(0, 512), dtype=float32)
        """
        if on_error not in ("raise", "nan"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'nan'")
        files = [Path(path) for path in paths]
        embeddings = np.full((len(files), self.dim), np.nan, dtype=np.float32)
        size = self._encoder.batch_size
        for start in range(0, len(files), size):
            rows, inputs = [], []  # (size, size) uint8 each
            for row, file in enumerate(files[start : start + size], start):
                folder = file.absolute().parent.as_posix()
                prepared = prepare(_refer_to(file), folder, self.input, self._options)
                if prepared.model_input is not None:
                    rows.append(row)
                    inputs.append(prepared.model_input)
                elif on_error == "raise":
                    raise ImageError(prepared.reason or "", f"{file}: {prepared.message}")
            if inputs:
                embeddings[rows] = self._encoder.embed(np.stack(inputs))
        return embeddings

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn (N, size, size) uint8 model inputs into (N, dim) float32 embeddings."""
        return self._encoder.embed(inputs)


def _refer_to(file: Path) -> ImageRef:
    return ImageRef(to_text(os.fsencode(file.name)))


def load_encoder(
    name: str = DEFAULT_BACKBONE,
    *,
    weights: str | os.PathLike[str] | None = None,
    precision: str = Precision.AUTO,
    input_size: int | None = None,
    fit: str | None = None,
    engine: str | None = None,
    device: str = Device.AUTO,
    batch_size: int | None = None,
    bits_stored: int | None = None,
) -> FileEncoder:
    """Load a frozen network by name, without Spark.

    Args:
        name: a backbone: ``densenet121``, ``timm:xception``, ``xrv:densenet121-res224-all``; see ``cxrfeat backbones``.
        weights: a file, a name of published weights, ``random``, or None for the backbone's default weights.
        precision: ``auto``, ``fp32``, ``bf16`` or ``int8``.
        input_size: height and width of the input in pixels; None for the backbone's own.
        fit: ``squash``, ``crop`` or ``pad``; None for the backbone's own.
        engine: ``torch`` or ``openvino``; None for torch, or for openvino if the weights are quantised.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: images per batch; None for the device's default.
        bits_stored: number of bits in use in 16-bit files that do not say it; None means all of them.

    Raises:
        ConfigError: the name or an option is unknown, or a package is missing; the message says how to install it.
        WeightsError: the weights are unavailable or do not match the network.
        DeviceError: a GPU is requested but none is available.

    Example:
        >>> encoder = load_encoder("resnet18", weights="random", precision="fp32")
        >>> encoder.dim, encoder.fingerprint
        (512, 'resnet18:random-seed0:gray224-bilinear-imagenet')
    """
    if not isinstance(name, str):
        raise ConfigError(f"name is a {type(name).__name__}; expected the name of a backbone, such as 'densenet121'")
    for value, known in ((precision, Precision), (fit, Fit), (device, Device), (engine, Engine)):
        if value is not None and value not in list(known):
            raise ConfigError(f"unknown {known.__name__.lower()} {value!r}; expected one of {', '.join(known)}")
    backbone = get_backbone(name).with_input(input_size, Fit(fit) if fit else None)
    found = find_weights(backbone, None if weights is None else os.fspath(weights))
    spec = EncoderSpec(
        name,
        found,
        Precision(precision),
        batch_size,
        input_size,
        Fit(fit) if fit else None,
        Engine(engine) if engine else None,
    )
    if input_size is not None:
        check_encoder(spec)
    return FileEncoder(FrozenEncoder(spec, str(find_device(Device(device)))), ReadOptions(bits_stored=bits_stored))
