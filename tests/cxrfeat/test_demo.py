"""The demo prints the commands that it runs, and they work."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from cxrfeat import demo
from cxrfeat.head.bundle import load_bundle


def test_without_weights_it_says_so_loudly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ImageNet weights the demo uses the random network and prints a clear notice."""

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    commands: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda words, **_: commands.append(words))
    monkeypatch.setattr(demo, "_show_table", lambda _: None)
    monkeypatch.setattr(demo, "_score_drops", lambda *_: None)
    assert demo.main(["--output", str(tmp_path / "demo"), "--count", "3"]) == 0
    assert commands[1][commands[1].index("--weights") + 1] == "random"
    printed = capsys.readouterr().out
    assert "NO IMAGENET WEIGHTS" in printed
    opens = [line.removeprefix("$ ").split() for line in printed.splitlines() if "cxrfeat serve" in line]
    assert opens == [["cxrfeat", "serve", "--head", str(tmp_path / "demo" / "run" / "head"), "--weights", "random"]]
    assert "no route to host" in printed


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Phantoms are drawn, embedded by a real job and read back; a head is trained and scores files of pandas."""
    assert demo.main(["--output", str(tmp_path), "--count", "24", "--weights", "random"]) == 0
    printed = capfd.readouterr().out
    assert "$ cxrfeat extract --images" in printed
    assert "24 listed = 24 ok + 0 quarantined" in printed
    assert "24 rows x 2048 dimensions, extractor resnet50:random-seed0:" in printed
    assert "$ cxrfeat fit --features" in printed
    assert "12 listed = 12 scored + 0 quarantined" in printed  # monday
    assert "24 listed = 24 scored + 0 quarantined" in printed  # and tuesday
    scored = pd.read_parquet(tmp_path / "predictions" / "predictions")
    assert dict(zip(scored["drop_file"], scored["round"].astype(int), strict=True)) == {
        "monday.parquet": 0,
        "tuesday.parquet": 1,
    }
    assert load_bundle(tmp_path / "run" / "head").extractor.startswith("resnet50:random-seed0:")
