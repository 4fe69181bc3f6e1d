"""The bare loop around OpenVINO: the same films, function and weights, but its kernels in bf16 where the CPU has it.

python -m benchmarks.peers.openvino --images DIR --output OUT [--weights PATH --backbone resnet50-v1]

A line of reference: what a runtime that fuses the whole network makes of these cores.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.peers import bare
from benchmarks.peers.common import SIZE, Function, Task, parse
from cxrfeat.backbones.encoder import EncoderSpec, fold_batchnorm
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import load_network
from cxrfeat.device import has_native_bf16
from cxrfeat.images import preprocess

BATCH = 8


class _Extractor(nn.Module):
    """(N, 224, 224) uint8 → (N, dim) float32, standardisation and pooling included."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(preprocess.IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        pixels = (gray.unsqueeze(1).float() / 255.0 - self.mean) / self.std
        pooled: torch.Tensor = self.trunk(pixels).mean(dim=(2, 3))
        return pooled


class OpenVinoEncoder:
    """An :class:`cxrfeat.backbones.encoder.Encoder` on one thread of OpenVINO; see there for the attributes."""

    def __init__(self, spec: EncoderSpec, batch_size: int = BATCH) -> None:
        backbone = get_backbone(spec.backbone)
        self.dim, self.fingerprint, self.batch_size = backbone.dim, spec.fingerprint, batch_size
        self.precision = "bf16" if has_native_bf16() else "fp32"
        extractor = _Extractor(fold_batchnorm(load_network(backbone, spec.weights))).eval()
        shape = (batch_size, *SIZE)
        with torch.inference_mode():
            program = torch.export.export(extractor, (torch.zeros(shape, dtype=torch.uint8),))
        model = ov.convert_model(program)
        settings = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[self.precision],
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # or both processes would sit on the first core
        }
        self._request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def embed(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn (N, 224, 224) uint8 model inputs into (N, dim) float32 embeddings; a partial batch is padded."""
        embeddings = np.empty((len(inputs), self.dim), dtype=np.float32)
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            batch = np.zeros((self.batch_size, *part.shape[1:]), dtype=np.uint8)
            batch[: len(part)] = part
            embeddings[start : start + len(part)] = self._request.infer(batch)[0][: len(part)]
        return embeddings


def build(task: Task) -> OpenVinoEncoder:
    """Make the encoder of one process."""
    torch.set_num_threads(1)
    return OpenVinoEncoder(task.spec())


if __name__ == "__main__":
    # Not this module's own name: spawned processes know it as benchmarks.peers.openvino.
    from benchmarks.peers.openvino import build as build_by_name

    bare.run(parse(__doc__, [Function.OURS]), build_by_name)
