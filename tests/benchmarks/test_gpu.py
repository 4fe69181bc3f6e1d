"""The benchmark of a GPU, run on the CPU: all but what nvidia-smi says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import gpu
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.device import Precision
from tests import fakes


def test_it_measures_and_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that agrees is 0, one below a bar 1; every size of a batch and number of threads has its rate."""
    monkeypatch.setitem(BACKBONES, "small", fakes.SMALL)
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(fakes.png(fakes.gray_image(seed=index)))
    command = ["--images", str(tmp_path), "--device", "cpu", "--count", "4", "--backbone", "small"]
    command += ["--batch-sizes", "1", "3"]
    assert gpu.main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^least cosine to the CPU in fp32, fp32: (1\.00000|0\.99999)", printed, re.MULTILINE)
    assert re.findall(r"^(fp32|bf16), batch of +(\d+): copy +\S+ ms", printed, re.MULTILINE) == [
        ("fp32", "1"), ("fp32", "3"), ("bf16", "1"), ("bf16", "3")
    ]  # fmt: skip
    assert "  1 decode threads" in printed
    assert re.search(r"^cpu in \w+ can use \d+ such threads", printed, re.MULTILINE)
    monkeypatch.setitem(gpu.LEAST_COSINE, Precision.BF16, 1.1)
    assert gpu.main(command) == 1
