"""What the table of the literature promises: whole rows, and protocols kept apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cxrfeat.labels.findings import FINDINGS
from head_training.evaluation.literature import RESULTS, Protocol, Result


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.name)
def test_each_mean_is_that_of_its_findings(result: Result) -> None:
    """All 14 findings in order; the printed mean has three decimals, theirs three or four: a slip of the pen shows."""
    assert tuple(result.findings) == FINDINGS
    assert result.mean == pytest.approx(np.mean(list(result.findings.values())), abs=0.0006)
    assert "arXiv:" in result.source
    assert json.loads(json.dumps(result.describe()))["mean"] == result.mean


def test_what_is_not_checked_is_marked() -> None:
    """Only the results on random splits were held against their source value by value."""
    assert {result.protocol for result in RESULTS} == set(Protocol)
    assert all(result.verified == (result.protocol == Protocol.RANDOM) for result in RESULTS)
