"""Exceptions share one base class, refine a builtin, and survive pickling."""

from __future__ import annotations

import inspect
import pickle

import pytest

from cxrfeat import errors
from cxrfeat.errors import CxrfeatError, DropError, ImageError, QuarantineError, VectorsError
from cxrfeat.io.schema import Reason

LEAVES = [leaf for _, leaf in inspect.getmembers(errors, inspect.isclass) if leaf is not CxrfeatError]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_is_ours_and_a_builtin(leaf: type[Exception]) -> None:
    """Each error can be caught as CxrfeatError and as ValueError or RuntimeError."""
    assert issubclass(leaf, CxrfeatError)
    assert issubclass(leaf, ValueError | RuntimeError)


@pytest.mark.parametrize(
    "error",
    [
        ImageError(Reason.CORRUPT, "cannot decode the 7 bytes of the file"),
        DropError(Reason.NO_ROWS, "no row"),
        VectorsError(Reason.NOT_FINITE, "2 embeddings contain NaN", [3, 5]),
    ],
)
def test_quarantine_errors_keep_their_reason_through_pickle(error: QuarantineError) -> None:
    """An error from a worker process keeps the reason and the invalid rows."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if not issubclass(leaf, QuarantineError)])
def test_the_other_errors_survive_pickle(leaf: type[Exception]) -> None:
    """Type and message of every error cross a process boundary."""
    copy = pickle.loads(pickle.dumps(leaf("what, actual, expected")))
    assert (type(copy), str(copy)) == (leaf, "what, actual, expected")
