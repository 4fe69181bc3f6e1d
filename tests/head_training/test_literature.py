"""What the table of the literature promises: whole rows, and protocols kept apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cxrfeat.findings import FINDINGS
from head_training.literature import RESULTS, Protocol, Result, results


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.name)
def test_each_mean_is_that_of_its_findings(result: Result) -> None:
    """All 14 findings in order; the printed mean has three decimals, theirs three or four: a slip of the pen shows."""
    assert tuple(result.findings) == FINDINGS
    assert result.mean == pytest.approx(np.mean(list(result.findings.values())), abs=0.0006)
    assert "arXiv:" in result.source
    assert json.loads(json.dumps(result.describe()))["mean"] == result.mean


def test_protocols_never_share_a_ranking() -> None:
    """Every result is in one of two lists, and what is not checked is marked."""
    official, random = results(Protocol.OFFICIAL), results(Protocol.RANDOM)
    assert len(official) + len(random) == len(RESULTS)
    assert {result.protocol for result in official} == {Protocol.OFFICIAL}
    assert [result.name for result in RESULTS if result.verified] == [result.name for result in random]
