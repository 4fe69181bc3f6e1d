"""Samples of one split to evaluate: all images, subgroups, triage, and baselines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import ANY_FINDING, any_finding
from cxrfeat.labels.label_set import LabelSet
from head_training.evaluation.bootstrap import PatientBootstrap
from head_training.evaluation.labelled_predictions import LabelledPredictions
from head_training.evaluation.metrics import Sample, SampleKey

AGE_BANDS = (("0-17", 0, 18), ("18-39", 18, 40), ("40-59", 40, 60), ("60-79", 60, 80), ("80+", 80, np.inf))
"""Name, lower bound (included) and upper bound (excluded) in years of each age band."""


class SplitSamples:
    """Samples of one split; all except subgroups share the resamples of its patients.

    Attributes:
        split: the split.
        rows: its N images.
        findings: F predicted labels.
        scale: the evaluated scale.
    """

    def __init__(
        self,
        split: Split,
        rows: LabelledPredictions,
        findings: tuple[str, ...],
        label_set: LabelSet,
        *,
        resamples: int,
        seed: int,
    ) -> None:
        """Draw resamples of the split's patients.

        Args:
            split: the split.
            rows: its N images.
            findings: F predicted labels.
            label_set: labels of the evaluation.
            resamples: number of resamples of the patients.
            seed: seed of the resamples.
        """
        self.split, self.rows, self.findings, self._label_set = split, rows, findings, label_set
        self.scale = next(iter(rows.scales))
        self._bootstrap_options = {"resamples": resamples, "seed": seed}
        self._bootstrap = PatientBootstrap(rows.patients, **self._bootstrap_options)

    def sample(self, scale: str) -> Sample:
        """Return all images with their predictions on a scale."""
        key = SampleKey(self.split.value, scale=scale)
        return Sample(key, self.findings, self.rows.labels, self.rows.scales[scale], self._bootstrap, self.rows.known)

    def baseline(self, name: str, probabilities: NDArray[np.float64]) -> Sample:
        """Return all images with the (N, F) probabilities of a baseline."""
        key = SampleKey(self.split.value, model=name)
        return Sample(key, self.findings, self.rows.labels, probabilities, self._bootstrap, self.rows.known)

    def triage(self) -> Sample | None:
        """Return all images with "any finding" as the only label.

        None if a label of the set is not predicted, or the set has a single finding.
        """
        count = self._label_set.findings_count
        if self.findings != self._label_set.outputs or count < 2:
            return None
        labels = self.rows.any_finding[:, None] == 1  # (N, 1)
        known = ~np.isnan(self.rows.any_finding)[:, None]  # (N, 1)
        probabilities = any_finding(self.rows.scales[self.scale][:, :count])[:, None]  # (N, 1)
        key = SampleKey(self.split.value, scale=self.scale)
        return Sample(key, (ANY_FINDING,), labels, probabilities, self._bootstrap, known)

    def subgroups(self) -> Iterator[Sample]:
        """Yield the images of each non-empty age band, sex and view position, with resamples of their own patients."""
        for group, members in _groups(self.rows.table):
            bootstrap = PatientBootstrap(self.rows.patients[members], **self._bootstrap_options)
            labels, probabilities = self.rows.labels[members], self.rows.scales[self.scale][members]  # (K, F)
            key = SampleKey(self.split.value, group, scale=self.scale)
            yield Sample(key, self.findings, labels, probabilities, bootstrap, self.rows.known[members])


def _groups(table: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and (N,) membership mask of each non-empty subgroup; missing values form the group ``unknown``."""
    ages = np.array([np.nan if age is None else age for age in table["age_years"].to_pylist()])  # (N,)
    bands = [(f"age={name}", (ages >= low) & (ages < high)) for name, low, high in AGE_BANDS]
    yield from ((name, members) for name, members in (*bands, ("age=unknown", np.isnan(ages))) if members.any())
    for prefix, column in (("sex", "sex"), ("view", "view_position")):
        values = np.array([value or "unknown" for value in table[column].to_pylist()])  # (N,)
        yield from ((f"{prefix}={value}", values == value) for value in np.unique(values))
