"""Feature extraction from chest X-rays with frozen backbones: the library behind the Spark jobs and the head.

Importing this package loads neither torch nor pyspark; only :mod:`cxrfeat.spark` imports pyspark.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrfeat.pipeline.file_encoder import FileEncoder as FileEncoder
    from cxrfeat.pipeline.file_encoder import load_encoder as load_encoder

__version__ = "0.1.0"

NOTICE = "Research software, not a medical device."
"""Notice shown by every command, web response and report."""

_LAZY = {"FileEncoder": "cxrfeat.pipeline.file_encoder", "load_encoder": "cxrfeat.pipeline.file_encoder"}
"""Module of each public name that is imported on first use."""

__all__ = ["NOTICE", "FileEncoder", "__version__", "load_encoder"]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
