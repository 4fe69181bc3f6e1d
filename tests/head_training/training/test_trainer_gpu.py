"""Training on a GPU ends as on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from head_training.training.grid import Configuration
from head_training.training.trainer import Examples, train
from tests.gpu import needs_gpu
from tests.head_training.training.test_trainer import SETTINGS, examples

pytestmark = needs_gpu


def to_gpu(data: Examples) -> Examples:
    return Examples(data.inputs.cuda(), data.labels.cuda(), data.weights.cuda())


def test_the_histories_are_those_of_the_cpu() -> None:
    """To 1e-8 in float64, with plateau steps, different ends, and heads that leave the stack."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    grid = [Configuration((8, 5), lr=lr, weight_decay=decay) for lr in (1e-3, 1e-1) for decay in (0.0, 1e-2)]
    cpu_histories, gpu_histories = train(data, val, grid, SETTINGS), train(to_gpu(data), to_gpu(val), grid, SETTINGS)
    assert len({len(history.epochs) for history in cpu_histories}) > 1, "nothing left the stack early"
    for cpu, gpu in zip(cpu_histories, gpu_histories, strict=True):
        assert gpu.status == cpu.status
        np.testing.assert_allclose(
            [(epoch.lr, epoch.train_loss, epoch.val_loss) for epoch in gpu.epochs],
            [(epoch.lr, epoch.train_loss, epoch.val_loss) for epoch in cpu.epochs],
            rtol=1e-8,
        )
        torch.testing.assert_close(
            [parameter.cpu() for parameter in gpu.head().parameters()],
            list(cpu.head().parameters()),
            rtol=1e-7,
            atol=1e-8,
        )
