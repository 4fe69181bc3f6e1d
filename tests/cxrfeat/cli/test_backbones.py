"""Tests of the table of backbones: every row, patterns, packages that are missing, weights that are cached."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from cxrfeat.backbones.registry import BACKBONES, _find
from cxrfeat.backbones.weights import cached_weights
from cxrfeat.cli import backbones

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")


def test_every_backbone_has_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default comes first; input, size, parameters, licence and the place of the weights are in the line."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = cached_weights(BACKBONES["densenet121"])
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert backbones.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert names[0] == "resnet50"
    assert set(BACKBONES) <= set(names)
    rows = {line.split()[0]: line.split() for line in lines[1 : lines.index("")]}
    assert rows["densenet121"][1:] == [
        *("1024", "gray224-bilinear-imagenet", "7.0", "mean", "BSD-3-Clause", "IMAGENET1K_V1,", "in", "the", "cache")
    ]
    assert rows["resnet18"][-3:] == ["download", "from", "download.pytorch.org"]
    assert rows["resnet50-v1"][-4:] == ["from", "a", "file", "(--weights)"]


def test_patterns_select_names(capsys: pytest.CaptureFixture[str]) -> None:
    """A shell pattern selects rows; one that matches none is an error."""
    assert backbones.main(["*net_v*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["mobilenet_v2", "mobilenet_v3_large"]
    assert backbones.main(["alexnet"]) == 2
    assert "no backbone matches 'alexnet'" in capsys.readouterr().err


@needs_timm
def test_networks_of_timm_are_listed_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    """Timm's names have their prefix, their own input and licence."""
    assert backbones.main(["timm:tf_efficientnet_lite0*"]) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert line.split()[:3] == ["timm:tf_efficientnet_lite0", "1280", "gray224-bicubic-half"]
    assert "apache-2.0" in line


def test_missing_packages_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without timm and torchxrayvision the table ends with how to install them; a pattern for them is an error."""
    _find.cache_clear()
    for module in ("timm", "torchxrayvision", "torchxrayvision.models"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert backbones.main([]) == 0
    printed = capsys.readouterr().out
    assert "timm:MODEL needs the package timm: pip install 'cxrfeat[timm]'" in printed
    assert "xrv:MODEL needs the package torchxrayvision: pip install 'cxrfeat[xrv]'" in printed
    assert backbones.main(["timm:*"]) == 2
    assert "pip install 'cxrfeat[timm]'" in capsys.readouterr().err
    _find.cache_clear()
