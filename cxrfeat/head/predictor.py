"""Calibrated predictions of a bundle's head from embeddings, for batch scoring, image jobs and the web service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cxrfeat.errors import BundleError
from cxrfeat.head.bundle import Bundle
from cxrfeat.io.schema import scored_schema
from cxrfeat.labels.findings import ANY_FINDING, any_finding

_BLOCK_ROWS = 1024
"""Rows per block: 8 MB of 2048-d vectors stay in the caches between standardisation and the first layer."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a head for N rows.

    Attributes:
        probabilities: (N, F) float32, calibrated.
        any_finding: (N,) float32 scores of any finding being present; see :func:`cxrfeat.labels.findings.any_finding`.
        imputed: for each covariate of the head, (N,) bool, True where the value was missing.
    """

    probabilities: NDArray[np.float32]
    any_finding: NDArray[np.float32]
    imputed: Mapping[str, NDArray[np.bool_]]


class Predictor:
    """Run a bundle's head on the CPU.

    Attributes:
        bundle: the bundle.
        dim: length of an embedding.
        fingerprint: fingerprint of the bundle.
        labels: (F,) names of the outputs.
        schema: schema of scored rows, :func:`cxrfeat.io.schema.scored_schema` of the labels.
    """

    def __init__(self, bundle: Bundle, operating_point: str) -> None:
        """Select the thresholds of one operating point.

        Raises:
            BundleError: the bundle lacks this operating point.
        """
        if operating_point not in bundle.thresholds:
            raise BundleError(
                f"the head has no operating point {operating_point!r}; it has {', '.join(sorted(bundle.thresholds))}"
            )
        self.bundle = bundle
        self.dim = len(bundle.inputs.mean)
        self.fingerprint = bundle.fingerprint
        self.labels = bundle.label_set.outputs
        self.schema = scored_schema(self.labels)
        chosen = bundle.thresholds[operating_point]
        # If the validation set lacked a class, the label has no threshold and is never positive.
        self._thresholds = np.array([_or_infinity(chosen[label]) for label in self.labels], dtype=np.float32)  # (F,)
        self._any_threshold = chosen[ANY_FINDING]

    @torch.inference_mode()
    def predict(self, embeddings: NDArray[np.float32], covariates: Mapping[str, NDArray[np.float32]]) -> Predictions:
        """Predict the labels of N images.

        Args:
            embeddings: (N, dim) float32, raw.
            covariates: for each covariate of the head, (N,) float32: age in years, sex (M = 1, F = 0); NaN = missing.

        Returns:
            The predictions; NaN where an embedding is so far from the training data that the head overflows.

        Raises:
            ValueError: the embeddings have another length.
        """
        columns = self._columns(embeddings, covariates)
        missing = {name: np.isnan(covariates[name]) for name in self.bundle.inputs.covariates}
        probabilities = np.empty((len(embeddings), len(self.labels)), dtype=np.float32)  # (N, F)
        for start in range(0, len(embeddings), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            rows = np.concatenate([column[part] for column in columns], axis=1)  # (block, dim + covariates)
            with np.errstate(over="ignore"):  # the result tells
                self.bundle.inputs.apply(rows)
            logits = self.bundle.head(torch.from_numpy(rows))  # (block, F)
            found = self.bundle.calibration.apply(logits)
            probabilities[part] = torch.where(logits.isfinite(), found, torch.nan).numpy()
        findings = probabilities[:, : self.bundle.label_set.findings_count]  # without the negative label
        return Predictions(probabilities, any_finding(findings).astype(np.float32), missing)

    def gradients(
        self, embeddings: NDArray[np.float32], covariates: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the derivatives of the logits of N images with respect to their embeddings.

        Args:
            embeddings: as for :meth:`predict`.
            covariates: as for :meth:`predict`.

        Returns:
            (N, F, dim) float32: derivatives of the uncalibrated logits with respect to the raw embedding.

        Raises:
            ValueError: the embeddings have another length.
        """
        rows = np.concatenate(self._columns(embeddings, covariates), axis=1)  # (N, dim + covariates)
        self.bundle.inputs.apply(rows)
        with torch.no_grad():  # the weights need no gradients; jacrev differentiates by the rows
            jacobians = torch.func.vmap(torch.func.jacrev(self.bundle.head))(torch.from_numpy(rows))
        # (N, F, dim + covariates) → (N, F, dim), by the chain rule through (e - mean) / scale
        gradients: NDArray[np.float32] = jacobians[:, :, : self.dim].numpy() / self.bundle.inputs.scale
        return gradients

    def _columns(
        self, embeddings: NDArray[np.float32], covariates: Mapping[str, NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Return the columns of the rows for :meth:`cxrfeat.head.inputs.Inputs.apply`: (N, dim), then (N, 1) each."""
        return [embeddings, *(covariates[name][:, np.newaxis] for name in self.bundle.inputs.covariates)]

    def to_columns(self, predictions: Predictions) -> dict[str, pa.Array]:
        """Return predictions as columns of :func:`cxrfeat.io.schema.predictions_schema`."""
        count = len(predictions.probabilities)
        columns = {
            f"probability_{label}": pa.array(np.ascontiguousarray(column))
            for label, column in zip(self.labels, predictions.probabilities.T, strict=True)
        }
        missing = [predictions.imputed[name] for name in self.bundle.inputs.covariates]
        imputed = np.stack(missing, axis=1) if missing else np.zeros((count, 0), dtype=bool)
        has_threshold = self._any_threshold is not None
        any_positive = predictions.any_finding >= np.float32(_or_infinity(self._any_threshold))
        return columns | {
            ANY_FINDING: pa.array(predictions.any_finding),
            "positives": _to_names(predictions.probabilities >= self._thresholds, self.labels),
            "any_finding_positive": pa.array(any_positive, mask=np.full(count, not has_threshold)),
            "imputed": _to_names(imputed, self.bundle.inputs.covariates),
        }


def _or_infinity(threshold: float | None) -> float:
    return np.inf if threshold is None else threshold


def _to_names(chosen: NDArray[np.bool_], names: tuple[str, ...]) -> pa.ListArray:
    """Return, for each row of an (N, K) matrix, the names of the columns that are True."""
    offsets = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]).astype(np.int32)
    values = pa.array(names, pa.string()).take(pa.array(np.nonzero(chosen)[1]))
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(pa.field("element", pa.string())))
