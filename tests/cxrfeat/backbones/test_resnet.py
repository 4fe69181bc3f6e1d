"""Tests of the ResNet: identical to torchvision's, without importing torchvision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision import models

from cxrfeat.backbones.resnet import ResNet


@pytest.mark.parametrize(("blocks", "width"), [((3, 4, 6, 3), 64), ((2, 1, 1, 1), 4)])
def test_it_equals_torchvisions(blocks: tuple[int, ...], width: int) -> None:
    """The same seed gives the same weights under the same names, and the same outputs in train and eval mode."""
    torch.manual_seed(3)
    theirs = models.ResNet(models.resnet.Bottleneck, list(blocks), width_per_group=width)
    torch.manual_seed(3)
    ours = ResNet(blocks, width).init_weights()
    expected = theirs.state_dict()
    state = ours.state_dict()
    assert list(state) == list(expected)
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name
    images = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        with torch.no_grad():
            assert torch.equal(ours.train(mode)(images), theirs.train(mode)(images))


def list_heavy_modules(code: str) -> str:
    """Run code in a separate process and return the slow packages that it imported, as the text of a list."""
    code += "; import sys; print([m for m in ('torchvision', 'torch._dynamo', 'sympy') if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["cxrfeat.spark.worker", "cxrfeat.head.predictor", "head_training.fit"])
def test_torchvision_is_not_imported(module: str) -> None:
    """Importing torchvision or torch's compiler would double the start time of a worker."""
    assert list_heavy_modules(f"import {module}") == "[]"


@pytest.mark.slow
def test_an_encoder_is_built_and_used_without_torchs_compiler(tmp_path: Path) -> None:
    """A worker that loads weights from a file imports neither of them."""
    file = tmp_path / "weights.pth"
    torch.save(ResNet().state_dict(), file)
    code = (
        "import numpy as np; from pathlib import Path; from cxrfeat.backbones import encoder, weights; "
        f"spec = encoder.EncoderSpec('resnet50', weights.Weights(Path({str(file)!r}), 'digest'), batch_size=1); "
        "encoder.open_encoder(spec, 'cpu', 1).embed(np.zeros((1, 224, 224), np.uint8))"
    )
    assert list_heavy_modules(code) == "[]"
