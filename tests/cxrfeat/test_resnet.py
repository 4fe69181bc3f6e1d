"""Our ResNet is torchvision's, and spares us its import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchvision import models

from cxrfeat.resnet import ResNet


@pytest.mark.parametrize(("blocks", "width"), [((3, 4, 6, 3), 64), ((2, 1, 1, 1), 4)])
def test_it_is_torchvisions(blocks: tuple[int, ...], width: int) -> None:
    """The same first weights from the same seed under the same names, and the same bits out of them, trained or not."""
    torch.manual_seed(3)
    theirs = models.ResNet(models.resnet.Bottleneck, list(blocks), width_per_group=width)
    torch.manual_seed(3)
    ours = ResNet(blocks, width)
    expected = theirs.state_dict()
    state = ours.state_dict()
    assert list(state) == list(expected)
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name
    pictures = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        with torch.no_grad():
            assert torch.equal(ours.train(mode)(pictures), theirs.train(mode)(pictures))


@pytest.mark.parametrize("module", ["cxrfeat.spark.worker", "cxrfeat.predict", "head_training.fit"])
def test_torchvision_is_not_imported(module: str) -> None:
    """Neither torchvision nor torch's compiler: they would double a worker's start."""
    code = f"import sys, {module}; print([m for m in ('torchvision', 'torch._dynamo', 'sympy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
