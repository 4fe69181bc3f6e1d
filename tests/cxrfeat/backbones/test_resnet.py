"""Our ResNet is torchvision's, and spares us its import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision import models

from cxrfeat.backbones.resnet import ResNet


@pytest.mark.parametrize(("blocks", "width"), [((3, 4, 6, 3), 64), ((2, 1, 1, 1), 4)])
def test_it_is_torchvisions(blocks: tuple[int, ...], width: int) -> None:
    """The same random weights from the same seed under the same names, and the same bits out of them, trained or not."""
    torch.manual_seed(3)
    theirs = models.ResNet(models.resnet.Bottleneck, list(blocks), width_per_group=width)
    torch.manual_seed(3)
    ours = ResNet(blocks, width).draw_weights()
    expected = theirs.state_dict()
    state = ours.state_dict()
    assert list(state) == list(expected)
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name
    pictures = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        with torch.no_grad():
            assert torch.equal(ours.train(mode)(pictures), theirs.train(mode)(pictures))


def list_heavy_modules(code: str) -> str:
    """Run code in a process of its own and return which of the slow packages it has imported, as a list's text."""
    code += "; import sys; print([m for m in ('torchvision', 'torch._dynamo', 'sympy') if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("module", ["cxrfeat.spark.worker", "cxrfeat.head.predictor", "head_training.fit"])
def test_torchvision_is_not_imported(module: str) -> None:
    """Neither torchvision nor torch's compiler: they would double a worker's start."""
    assert list_heavy_modules(f"import {module}") == "[]"


def test_an_encoder_is_built_and_used_without_torchs_compiler(tmp_path: Path) -> None:
    """Nor by what a worker does with weights from a file."""
    file = tmp_path / "weights.pth"
    torch.save(ResNet().state_dict(), file)
    code = (
        "import numpy as np; from pathlib import Path; from cxrfeat.backbones import encoder, weights; "
        f"spec = encoder.EncoderSpec('resnet50', weights.Weights(Path({str(file)!r}), 'digest'), batch_size=1); "
        "encoder.load_encoder(spec, 'cpu', 1).embed(np.zeros((1, 224, 224), np.uint8))"
    )
    assert list_heavy_modules(code) == "[]"
