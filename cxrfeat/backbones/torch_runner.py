"""Run any network with torch: standardise on the device, fold BatchNorm where it can be traced, keep channels last."""

from __future__ import annotations

import logging

import torch
from torch import nn

from cxrfeat.backbones.backbone import RunnerSettings

_LOG = logging.getLogger(__name__)

CPU_BATCH = 4
"""Images per call on a CPU, whatever batch size is asked for, so that embeddings do not depend on it.

From 1 to 16, the fastest or nearly so for every network measured (benchmarks/LOG.md).
"""


class TorchRunner:
    """A trunk on its device; see :class:`.backbone.Runner`."""

    def __init__(self, trunk: nn.Module, settings: RunnerSettings) -> None:
        """Fold the trunk's BatchNorm layers and move it to the device; the trunk must not be used afterwards."""
        on_cpu = settings.device.type == "cpu"
        self.batch_size = CPU_BATCH if on_cpu else settings.batch_size
        self._dtype = settings.dtype
        spec = settings.input
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=settings.device).view(1, -1, 1, 1)  # (1, C, 1, 1)
            for values in (spec.mean, spec.std)
        )
        self._trunk = fold_batchnorm(trunk).to(settings.device, settings.dtype)
        for module in self._trunk.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.float()  # bf16 would round the statistics of those that cannot be folded

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn (batch_size, H, W) uint8 into (batch_size, dim, h, w) or (batch_size, dim) float32."""
        images = (batch.unsqueeze(1).float() / 255 - self._mean) / self._std  # (N, C, H, W)
        output: torch.Tensor = self._trunk(images.to(self._dtype, memory_format=torch.channels_last))
        return output.float()


def fold_batchnorm(trunk: nn.Module) -> nn.Module:
    """Return the trunk with each BatchNorm that follows a convolution folded into it, or the trunk if it has no graph.

    Source: torch.fx; a network whose ``forward`` depends on its input cannot be traced.
    """
    from torch.fx.experimental.optimization import fuse  # noqa: PLC0415 -- slow to import, not needed for ResNet50

    try:
        folded: nn.Module = fuse(trunk)
    # Tracing runs the network's Python code on symbolic values, which fails in as many ways as there is code.
    except Exception as error:
        _LOG.debug("BatchNorm stays: %s cannot be traced: %r", type(trunk).__name__, error)
        return trunk
    return folded
