"""Fixtures of the tests in this folder."""

from __future__ import annotations

import pytest

from cxrfeat.spark import embedding


@pytest.fixture(autouse=True)
def _no_real_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the driver's check that the weights load; a fake encoder has no network."""
    monkeypatch.setattr(embedding, "check_encoder", lambda *_: None)
