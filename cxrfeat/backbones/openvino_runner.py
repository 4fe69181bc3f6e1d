"""Run a network with OpenVINO, an optional package that is faster than torch on CPUs: ``--engine openvino``.

A network is converted once; the result is kept in a cache folder, because the conversion takes seconds in every worker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cxrfeat import __version__
from cxrfeat.backbones.backbone import Backbone, RunnerSettings
from cxrfeat.backbones.torch_runner import CPU_BATCH
from cxrfeat.backbones.weights import Weights, fingerprint, load_network
from cxrfeat.errors import ConfigError, DeviceError
from cxrfeat.images.preprocess import InputSpec

_LOG = logging.getLogger(__name__)

_SOURCES = ("openvino", "torch", "torchvision", "timm", "torchxrayvision")
"""Packages whose versions may change a converted network."""

_FILE = "model.xml"

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def import_openvino() -> Any:
    """Return the module ``openvino``, without its telemetry: nothing about a hospital's work is sent anywhere.

    Raises:
        ConfigError: the package is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError("--engine openvino needs the package openvino: pip install 'cxrfeat[openvino]'") from error
    return openvino


class OpenVinoRunner:
    """A converted network; see :class:`.backbone.Runner`.

    Attributes:
        compiled: ``openvino.CompiledModel``.
    """

    def __init__(self, model: Any, settings: RunnerSettings) -> None:
        """Compile a model for this process, with torch's number of threads.

        Args:
            model: ``openvino.Model`` from (N, size, size) uint8 to (N, dim, h, w) or (N, dim) float32.
            settings: precision and input.

        Raises:
            DeviceError: the device is a GPU.
        """
        if settings.device.type != "cpu":
            raise DeviceError("--engine openvino runs on CPUs; use --device cpu, or --engine torch for a GPU")
        self.batch_size = CPU_BATCH
        size = settings.input.size
        model.reshape([self.batch_size, size, size])
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[settings.dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # every process would pin its threads to the same first cores
        }
        self.compiled = import_openvino().Core().compile_model(model, "CPU", options)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn (batch_size, H, W) uint8 into (batch_size, dim, h, w) or (batch_size, dim) float32."""
        return torch.from_numpy(np.array(self.compiled(batch.numpy())[0], dtype=np.float32))


class _FromGray(nn.Module):
    """Trunk behind the standardisation of gray levels."""

    def __init__(self, trunk: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.trunk = trunk
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))  # (1, C, 1, 1)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        """Turn (N, H, W) uint8 into the trunk's output."""
        output: torch.Tensor = self.trunk((gray.unsqueeze(1).float() / 255 - self.mean) / self.std)
        return output


def open_model(backbone: Backbone, weights: Weights) -> Any:
    """Return a network as an ``openvino.Model`` in fp32, from the cache if it is there.

    A model that has just been converted is also read back from its file: it computes other last bits than the same
    model from the file.

    Raises:
        ConfigError: the package is not installed.
        WeightsError: the weights do not match the network.
    """
    openvino = import_openvino()
    core = openvino.Core()
    cached = _cache_folder() / _cache_key(backbone, weights)
    if (cached / _FILE).is_file():
        return core.read_model(cached / _FILE)
    model = convert(backbone, load_network(backbone, weights))
    with tempfile.TemporaryDirectory(prefix="cxrfeat-") as folder:
        openvino.save_model(model, Path(folder, _FILE), compress_to_fp16=False)
        _keep(Path(folder), cached)
        return core.read_model(Path(folder, _FILE))  # its tensors stay mapped after the file is deleted


def convert(backbone: Backbone, network: nn.Module) -> Any:
    """Convert a network to an ``openvino.Model`` in fp32.

    The front end is called directly: OpenVINO's ``convert_model`` sends usage data.
    """
    import_openvino()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    size = backbone.input.size
    example = torch.zeros(CPU_BATCH, size, size, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing: the input size is fixed, so branches on it are constant
        decoder = TorchScriptPythonDecoder(_FromGray(backbone.trunk(network), backbone.input), example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxrfeat" / "openvino"


def _cache_key(backbone: Backbone, weights: Weights) -> str:
    versions = {"cxrfeat": __version__, **{name: _version(name) for name in _SOURCES}}
    identity = [fingerprint(backbone, weights), weights.digest, versions]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _keep(model: Path, cached: Path) -> None:
    """Copy a model's folder into the cache; several processes may do so at once, and the first one wins."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=cached.parent, prefix="new-"))
        try:
            shutil.copytree(model, staged, dirs_exist_ok=True)
            staged.rename(cached)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        if not cached.is_dir():
            _LOG.warning("cannot keep the converted network in %s, so every start converts it: %s", cached, error)
