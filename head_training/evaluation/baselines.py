"""Metadata-only baselines: logistic regression on view position, age and sex.

View position correlates with disease, as bedridden patients are imaged AP, and age and sex add a little. A head that
does no better than these baselines has learnt nothing from the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cxrfeat.labels.label_set import LabelSet
from head_training.evaluation.ground_truth import labels_of

BASELINES: Mapping[str, tuple[str, ...]] = {
    "view": ("view_position",),
    "age+sex": ("age_years", "sex"),
    "view+age+sex": ("view_position", "age_years", "sex"),
}
"""Metadata columns of each baseline, by baseline name."""


@dataclass(frozen=True)
class Baseline:
    """Logistic regressions on metadata columns.

    Attributes:
        columns: names of the C input columns.
        models: F models, one per finding; None if the training images lack a class.
    """

    columns: tuple[str, ...]
    models: Sequence[Pipeline | None]

    def predict(self, table: pa.Table) -> NDArray[np.float64]:
        """Return (N, F) float64 probabilities for N rows of metadata; 0 for findings without a model."""
        inputs = _to_inputs(table, self.columns)  # (N, C)
        columns = [
            np.zeros(len(table)) if model is None else model.predict_proba(inputs)[:, 1] for model in self.models
        ]  # (N,) each
        return np.stack(columns, axis=1)


def fit_baselines(train: pa.Table, findings: Sequence[str], label_set: LabelSet) -> dict[str, Baseline]:
    """Return every baseline by name, fitted on the training images.

    A missing age is imputed with the mean; a missing sex or view position is a category of its own.

    Args:
        train: one row per training image, with age_years, sex, view_position and
            :data:`head_training.evaluation.ground_truth.LABEL_COLUMNS`.
        findings: F labels to predict.
        label_set: set of the labels.

    Source: scikit-learn's LogisticRegression with its default L2 penalty.
    """
    outputs = [label_set.outputs.index(finding) for finding in findings]
    labels = labels_of(train, label_set)[:, outputs]  # (N, F), NaN where unknown
    fitted = {}
    for name, columns in BASELINES.items():
        inputs = _to_inputs(train, columns)  # (N, C)
        models = [_fit_known(columns, inputs, label) for label in labels.T]
        fitted[name] = Baseline(columns, models)
    return fitted


def _fit_known(columns: Sequence[str], inputs: NDArray[np.object_], labels: NDArray[np.float32]) -> Pipeline | None:
    """Return the model of one label, fitted where it is known; None if a class is absent."""
    known = ~np.isnan(labels)  # (N,)
    label = labels[known]  # (K,)
    return _fit(columns, inputs[known], label) if 0 < label.sum() < len(label) else None


def _fit(columns: Sequence[str], inputs: NDArray[np.object_], labels: NDArray[np.float32]) -> Pipeline:
    """Return the model fitted on (K, C) inputs and (K,) labels."""
    age = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    category = OneHotEncoder(handle_unknown="ignore")
    encoder = make_column_transformer(
        *((age if name == "age_years" else category, [index]) for index, name in enumerate(columns))
    )
    return make_pipeline(encoder, LogisticRegression(max_iter=1000)).fit(inputs, labels)


def _to_inputs(table: pa.Table, columns: Sequence[str]) -> NDArray[np.object_]:
    """Return (N, C) values for scikit-learn: NaN for a missing age, "missing" for a missing category."""
    inputs = []
    for name in columns:
        missing = np.nan if name == "age_years" else "missing"
        inputs.append([missing if value is None else value for value in table[name].to_pylist()])
    return np.array(inputs, dtype=object).T
