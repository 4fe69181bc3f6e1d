"""What can go wrong, by name: each error is a :class:`CxrfeatError` and also the builtin it refines.

A message says what was wrong, the actual value, the expected one, and where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class CxrfeatError(Exception):
    """Base of every error that the project raises on purpose."""


class ConfigError(CxrfeatError, ValueError):
    """An option, or a combination of options, that can't be carried out."""


class QuarantineError(CxrfeatError, ValueError):
    """Something that belongs into quarantine, with the reason that it gets there.

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
    """A file that cannot become an embedding."""


class DropError(QuarantineError):
    """A drop, or a row group of it, that can't be trusted."""


class VectorsError(QuarantineError):
    """An Arrow column of embeddings that is no matrix of finite numbers.

    Attributes:
        rows: which rows of the column are wrong; empty if all are.
    """

    def __init__(self, reason: str, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(reason, message)
        self.rows = rows

    def __reduce__(self) -> tuple[type[VectorsError], tuple[object, ...]]:
        """Keep the rows too."""
        return type(self), (self.reason, str(self), self.rows)


class MetadataError(CxrfeatError, ValueError):
    """A metadata table or split list as a whole that can't be used."""


class WeightsError(CxrfeatError, ValueError):
    """Weights that can't be found, read, or fitted to the backbone."""


class DeviceError(CxrfeatError, RuntimeError):
    """A device that was asked for and is not there."""


class WorkerError(CxrfeatError, RuntimeError):
    """A task failed for a reason that is not its files'."""


class SessionError(CxrfeatError, RuntimeError):
    """A Spark that can't be started, such as a cluster that does not answer."""


class CheckpointError(CxrfeatError, RuntimeError):
    """A stream's memory that is missing, damaged, or of another version of Spark."""


class DatasetMismatchError(CxrfeatError, ValueError):
    """An output folder that was made with other settings than the ones given now."""


class DatasetIntegrityError(CxrfeatError, RuntimeError):
    """A written data set that breaks a promise: an image lost or doubled, a patient in two splits."""


class FeaturesError(CxrfeatError, ValueError):
    """Embeddings that a head can't be trained on: none, mixed, of wrong length, not finite, doubled, leaking."""


class BundleError(CxrfeatError, ValueError):
    """A head's bundle that can't be written or read, or does not fit what it is used on."""


class PredictionsError(CxrfeatError, ValueError):
    """Predictions that can't be evaluated: unreadable, doubled, no probabilities, of images that the truth lacks."""


class TrainingError(CxrfeatError, RuntimeError):
    """A training that ended without a head: every configuration diverged, or none can be ranked."""


class JavaError(CxrfeatError, RuntimeError):
    """No Java runtime that Spark can use."""


class ReportError(CxrfeatError, ValueError):
    """A report that can't be made: what it is about is missing, damaged or of another format, or the page can't be written."""
