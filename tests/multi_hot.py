"""Reference encoding of findings, apart from the library's label sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrfeat.labels.findings import FINDINGS


def to_multi_hot(findings: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Return the (N, 14) labels of N lists of NIH's findings."""
    return np.array([[name in names for name in FINDINGS] for names in findings], np.float32).reshape(-1, len(FINDINGS))
