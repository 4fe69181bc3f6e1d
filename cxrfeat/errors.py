"""Exceptions of the project: each is a :class:`CxrfeatError` and a subclass of a builtin exception.

A message gives the problem, the actual value, the expected value, and the place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class CxrfeatError(Exception):
    """Base class of every exception that the project raises on purpose."""


class ConfigError(CxrfeatError, ValueError):
    """An invalid option, or an invalid combination of options."""


class QuarantineError(CxrfeatError, ValueError):
    """Invalid input that goes into quarantine under a reason code.

    Attributes:
        reason: one of :class:`cxrfeat.io.schema.Reason`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[QuarantineError], tuple[object, ...]]:
        """Keep the reason when the error crosses a process boundary."""
        return type(self), (self.reason, str(self))


class ImageError(QuarantineError):
    """An image file that cannot be embedded."""


class DropError(QuarantineError):
    """An invalid or damaged drop, or a row group of one."""


class VectorsError(QuarantineError):
    """An Arrow column of embeddings that does not form a matrix of finite numbers.

    Attributes:
        rows: indices of the invalid rows; empty if the whole column is invalid.
    """

    def __init__(self, reason: str, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(reason, message)
        self.rows = rows

    def __reduce__(self) -> tuple[type[VectorsError], tuple[object, ...]]:
        """Keep reason and rows when the error crosses a process boundary."""
        return type(self), (self.reason, str(self), self.rows)


class MetadataError(CxrfeatError, ValueError):
    """An unusable metadata table or split list, as opposed to a single bad line."""


class WeightsError(CxrfeatError, ValueError):
    """Weights that are missing, unreadable, or do not match the backbone."""


class DeviceError(CxrfeatError, RuntimeError):
    """A requested device that is not available."""


class WorkerError(CxrfeatError, RuntimeError):
    """A task that failed for a reason other than its input files."""


class SessionError(CxrfeatError, RuntimeError):
    """A Spark session that does not start, for example because the cluster is unreachable."""


class CheckpointError(CxrfeatError, RuntimeError):
    """A checkpoint of a stream that is missing, damaged, or written by another version of Spark."""


class DatasetMismatchError(CxrfeatError, ValueError):
    """An output folder that was written with settings other than the current ones."""


class DatasetIntegrityError(CxrfeatError, RuntimeError):
    """A written data set that violates an invariant: a missing or duplicate image, or a patient in two splits."""


class FeaturesError(CxrfeatError, ValueError):
    """Embeddings unfit for training: none, mixed extractors, wrong length, not finite, duplicate, or leaking."""


class BundleError(CxrfeatError, ValueError):
    """A head bundle that cannot be written or read, or does not match its input."""


class PredictionsError(CxrfeatError, ValueError):
    """Predictions unfit for evaluation: unreadable, duplicate, not probabilities, or without ground truth."""


class TrainingError(CxrfeatError, RuntimeError):
    """A training run without a usable head: every configuration diverged, or none can be ranked."""


class JavaError(CxrfeatError, RuntimeError):
    """A Java runtime that is missing or too old for Spark."""


class ReportError(CxrfeatError, ValueError):
    """A report that cannot be made: its input is missing, damaged or in another format, or the write fails."""


class OutputLockedError(CxrfeatError, RuntimeError):
    """An output folder on which another job is at work."""
