"""Embeddings → calibrated probabilities: the one way from a bundle to an answer, for tables, images and pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cxrfeat.errors import BundleError
from cxrfeat.head.bundle import Bundle
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS, any_finding

_ROWS_AT_ONCE = 1024
"""8 MB of 2048-d vectors stay in the caches between standardising and the first layer."""


@dataclass(frozen=True)
class Predictions:
    """What a head says of N rows.

    Attributes:
        probabilities: (N, 14) float32, calibrated.
        any_finding: (N,) float32 scores that there is any finding, see :func:`cxrfeat.labels.findings.any_finding`.
        imputed: for each covariate of the head (N,) bool, where it was missing.
    """

    probabilities: NDArray[np.float32]
    any_finding: NDArray[np.float32]
    imputed: Mapping[str, NDArray[np.bool_]]


class Predictor:
    """A bundle at work, on the CPU.

    Attributes:
        bundle: as given.
        dim: length of an embedding.
        fingerprint: of the bundle.
    """

    def __init__(self, bundle: Bundle, operating_point: str) -> None:
        """Take the thresholds of one rule.

        Raises:
            BundleError: the bundle has no such operating point.
        """
        if operating_point not in bundle.thresholds:
            raise BundleError(
                f"the head has no operating point {operating_point!r}; it has {sorted(bundle.thresholds)}"
            )
        self.bundle = bundle
        self.dim = len(bundle.inputs.mean)
        self.fingerprint = bundle.fingerprint
        chosen = bundle.thresholds[operating_point]
        # Where validation lacked a class there is no threshold, and nothing is positive.
        self._thresholds = np.array([_or_never(chosen[finding]) for finding in FINDINGS], dtype=np.float32)
        self._any_threshold = chosen[ANY_FINDING]

    @torch.inference_mode()
    def predict(self, embeddings: NDArray[np.float32], covariates: Mapping[str, NDArray[np.float32]]) -> Predictions:
        """Answer for N films.

        Args:
            embeddings: (N, dim) float32, raw.
            covariates: for each covariate of the head (N,) float32: age in years, sex (M = 1, F = 0); NaN = missing.

        Raises:
            ValueError: embeddings of another length.
        """
        columns = self._columns(embeddings, covariates)
        missing = {name: np.isnan(covariates[name]) for name in self.bundle.inputs.covariates}
        probabilities = np.empty((len(embeddings), len(FINDINGS)), dtype=np.float32)
        for start in range(0, len(embeddings), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows = np.concatenate([column[part] for column in columns], axis=1)
            self.bundle.inputs.apply(rows)
            logits = self.bundle.head(torch.from_numpy(rows))
            probabilities[part] = self.bundle.calibration.apply(logits).numpy()
        return Predictions(probabilities, any_finding(probabilities).astype(np.float32), missing)

    def gradients(
        self, embeddings: NDArray[np.float32], covariates: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return how the logits of N films answer to their embeddings.

        Args:
            embeddings: as for :meth:`predict`.
            covariates: as for :meth:`predict`.

        Returns:
            (N, 14, dim) float32: derivatives of the head's logits, before calibration, with respect to the raw embedding.

        Raises:
            ValueError: embeddings of another length.
        """
        rows = np.concatenate(self._columns(embeddings, covariates), axis=1)
        self.bundle.inputs.apply(rows)
        with torch.no_grad():  # of the weights; the rows have theirs from jacrev
            jacobians = torch.func.vmap(torch.func.jacrev(self.bundle.head))(torch.from_numpy(rows))
        gradients: NDArray[np.float32] = jacobians[:, :, : self.dim].numpy() / self.bundle.inputs.scale
        return gradients

    def _columns(
        self, embeddings: NDArray[np.float32], covariates: Mapping[str, NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Return what stands side by side in the rows that :meth:`cxrfeat.head.inputs.Inputs.apply` takes."""
        return [embeddings, *(covariates[name][:, np.newaxis] for name in self.bundle.inputs.covariates)]

    def to_columns(self, predictions: Predictions) -> dict[str, pa.Array]:
        """Return what the predictions say as columns of :func:`cxrfeat.io.schema.predictions_schema`."""
        count = len(predictions.probabilities)
        columns = {
            f"probability_{finding}": pa.array(np.ascontiguousarray(column))
            for finding, column in zip(FINDINGS, predictions.probabilities.T, strict=True)
        }
        missing = [predictions.imputed[name] for name in self.bundle.inputs.covariates]
        imputed = np.stack(missing, axis=1) if missing else np.zeros((count, 0), dtype=bool)
        known = self._any_threshold is not None
        any_positive = predictions.any_finding >= np.float32(_or_never(self._any_threshold))
        return columns | {
            ANY_FINDING: pa.array(predictions.any_finding),
            "positives": _to_names(predictions.probabilities >= self._thresholds, FINDINGS),
            "any_finding_positive": pa.array(any_positive, mask=np.full(count, not known)),
            "imputed": _to_names(imputed, self.bundle.inputs.covariates),
        }


def _or_never(threshold: float | None) -> float:
    return np.inf if threshold is None else threshold


def _to_names(chosen: NDArray[np.bool_], names: tuple[str, ...]) -> pa.ListArray:
    """Return for each row of (N, K) the names of its true columns."""
    offsets = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]).astype(np.int32)
    values = pa.array(names, pa.string()).take(pa.array(np.nonzero(chosen)[1]))
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(pa.field("element", pa.string())))
