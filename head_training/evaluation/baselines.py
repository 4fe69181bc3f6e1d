"""What a result must beat: the findings predicted from what is known without looking at the film.

View position tells how ill a patient is (films of bedridden patients are AP), and age and sex tell a little more. A head
that does no better than these has not read the image.
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

from cxrfeat.labels.findings import FINDINGS, to_multi_hot

BASELINES: Mapping[str, tuple[str, ...]] = {
    "view": ("view_position",),
    "age+sex": ("age_years", "sex"),
    "view+age+sex": ("view_position", "age_years", "sex"),
}
"""Name → the columns that it sees."""


@dataclass(frozen=True)
class Baseline:
    """Logistic regressions on columns of the metadata.

    Attributes:
        columns: what they see.
        models: one a finding; None where the training images lack a class.
    """

    columns: tuple[str, ...]
    models: Sequence[Pipeline | None]

    def predict(self, table: pa.Table) -> NDArray[np.float64]:
        """Return (N, F) probabilities of N rows of metadata; 0 where there is no model."""
        rows = _rows(table, self.columns)
        columns = [np.zeros(len(table)) if model is None else model.predict_proba(rows)[:, 1] for model in self.models]
        return np.stack(columns, axis=1)


def fit_baselines(train: pa.Table, findings: Sequence[str]) -> dict[str, Baseline]:
    """Fit every baseline on training images alone.

    Missing age is imputed with the mean; missing sex and view are values of their own.

    Args:
        train: one row an image, with age_years, sex, view_position and findings.
        findings: what is predicted.
    """
    labels = to_multi_hot(train["findings"].to_pylist())[:, [FINDINGS.index(finding) for finding in findings]]
    fitted = {}
    for name, columns in BASELINES.items():
        rows = _rows(train, columns)
        models = [_fit(columns, rows, label) if 0 < label.sum() < len(label) else None for label in labels.T]
        fitted[name] = Baseline(columns, models)
    return fitted


def _fit(columns: Sequence[str], rows: NDArray[np.object_], labels: NDArray[np.float32]) -> Pipeline:
    age = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    category = OneHotEncoder(handle_unknown="ignore")
    inputs = make_column_transformer(
        *((age if name == "age_years" else category, [number]) for number, name in enumerate(columns))
    )
    return make_pipeline(inputs, LogisticRegression(max_iter=1000)).fit(rows, labels)


def _rows(table: pa.Table, columns: Sequence[str]) -> NDArray[np.object_]:
    """Return (N, columns) values as scikit-learn wants them: NaN for a missing age, a word for a missing category."""
    missing = {"age_years": np.nan}
    values = [[missing.get(name, "missing") if v is None else v for v in table[name].to_pylist()] for name in columns]
    return np.array(values, dtype=object).T
