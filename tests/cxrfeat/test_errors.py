"""What the errors promise: one base, a builtin each, and nothing lost between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from cxrfeat import errors
from cxrfeat.errors import CxrfeatError, ImageError
from cxrfeat.schema import Reason

LEAVES = [leaf for _, leaf in inspect.getmembers(errors, inspect.isclass) if leaf is not CxrfeatError]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_is_ours_and_a_builtin(leaf: type[Exception]) -> None:
    """Who catches CxrfeatError, ValueError or RuntimeError catches what the name says."""
    assert issubclass(leaf, CxrfeatError)
    assert issubclass(leaf, ValueError | RuntimeError)


def test_image_error_keeps_reason_and_message_through_pickle() -> None:
    """An ImageError from a worker process still says why its file is in quarantine."""
    error = ImageError(Reason.CORRUPT, "7 bytes can't be decoded")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.reason, str(copy)) == (ImageError, Reason.CORRUPT, "7 bytes can't be decoded")


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf is not ImageError])
def test_the_other_errors_survive_pickle(leaf: type[Exception]) -> None:
    """Type and message of every error cross a process boundary."""
    copy = pickle.loads(pickle.dumps(leaf("what, actual, expected")))
    assert (type(copy), str(copy)) == (leaf, "what, actual, expected")
