"""The demo says where weights are missing; tests/test_dist.py runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cxrfeat import demo


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
