"""What the tests of this folder share."""

from __future__ import annotations

import pytest

from cxrfeat.spark import embedding


@pytest.fixture(autouse=True)
def _no_real_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver tries the weights by building the network; a fake encoder has none."""
    monkeypatch.setattr(embedding, "load_network", lambda *_: None)
