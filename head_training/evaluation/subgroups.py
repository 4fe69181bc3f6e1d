"""What is cut from one split to be measured: all its images on a scale, subgroups, triage, other models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS, any_finding
from head_training.evaluation.bootstrap import PatientBootstrap
from head_training.evaluation.labelled_predictions import LabelledPredictions
from head_training.evaluation.metrics import Sample, SampleKey

AGE_BANDS = (("0-17", 0, 18), ("18-39", 18, 40), ("40-59", 40, 60), ("60-79", 60, 80), ("80+", 80, np.inf))
"""Name, first year, and the year after the last."""


class SplitSubgroups:
    """One split with its resamples.

    Attributes:
        split: which one.
        rows: its images.
        findings: the F that are predicted.
        scale: the one that is evaluated.
    """

    def __init__(
        self, split: Split, rows: LabelledPredictions, findings: tuple[str, ...], *, resamples: int, seed: int
    ) -> None:
        """Draw resamples of the split's patients."""
        self.split, self.rows, self.findings = split, rows, findings
        self.scale = next(iter(rows.scales))
        self._draws = {"resamples": resamples, "seed": seed}
        self._resamples = PatientBootstrap(rows.patients, **self._draws)

    def sample(self, scale: str) -> Sample:
        """Return all images on a scale."""
        name = SampleKey(self.split.value, scale=scale)
        return Sample(name, self.findings, self.rows.labels, self.rows.scales[scale], self._resamples)

    def other(self, model: str, probabilities: NDArray[np.float64]) -> Sample:
        """Return what another model says of the same images: (N, F) probabilities."""
        name = SampleKey(self.split.value, model=model)
        return Sample(name, self.findings, self.rows.labels, probabilities, self._resamples)

    def triage(self) -> Sample | None:
        """Return any finding against none; None where not all 14 findings are predicted."""
        if self.findings != FINDINGS:
            return None
        probabilities = any_finding(self.rows.scales[self.scale])[:, None]
        name = SampleKey(self.split.value, scale=self.scale)
        return Sample(name, (ANY_FINDING,), ~self.rows.no_finding[:, None], probabilities, self._resamples)

    def subgroups(self) -> Iterator[Sample]:
        """Yield the images of each sex, age band and view that occurs, on the evaluated scale; their own patients are drawn."""
        for group, inside in _groups(self.rows.table):
            resamples = PatientBootstrap(self.rows.patients[inside], **self._draws)
            labels, probabilities = self.rows.labels[inside], self.rows.scales[self.scale][inside]
            name = SampleKey(self.split.value, group, scale=self.scale)
            yield Sample(name, self.findings, labels, probabilities, resamples)


def _groups(table: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and (N,) members of each subgroup that has an image; missing values are ``unknown``."""
    ages = np.array([np.nan if age is None else age for age in table["age_years"].to_pylist()])
    bands = [(f"age={name}", (ages >= low) & (ages < high)) for name, low, high in AGE_BANDS]
    yield from ((name, inside) for name, inside in (*bands, ("age=unknown", np.isnan(ages))) if inside.any())
    for prefix, column in (("sex", "sex"), ("view", "view_position")):
        values = np.array([value or "unknown" for value in table[column].to_pylist()])
        yield from ((f"{prefix}={value}", values == value) for value in np.unique(values))
