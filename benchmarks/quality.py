"""Selected heads against logistic regression on real embeddings: mean AUROC over folds that keep patients together.

    python -m benchmarks.quality --features features/embeddings [--repeats 3]
    python -m benchmarks.quality --features fp32/embeddings int8/embeddings --scorers logistic

Each fold is test once and val once; the other three train. A head is the best of the default grid on val: unweighted,
weighted by frequency, and in bf16. Logistic regression is the best of five C on val. All see the same standardised
embeddings, age and sex. ``--repeats`` draws the folds several times. Several folders, for example of two networks, are
measured one after the other. The exit code is 1 if the unweighted head is 0.01 below logistic regression.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from benchmarks import machine
from cxrfeat.device import Precision
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.labels.findings import FINDINGS
from head_training.features.input_statistics import measure_inputs
from head_training.features.matrix import load_features
from head_training.training.grid import DEFAULT_GRID, expand
from head_training.training.history import TrainingSettings
from head_training.training.loss import LossWeighting, label_weights
from head_training.training.selection import SelectionMetric, choose, infer, rank
from head_training.training.trainer import Examples, train

FOLDS = 5
CS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TOLERANCE = 0.01

Floats = NDArray[np.float32]
Parts = Sequence[Floats]
"""Arrays of train, val and test."""


def head_scores(inputs: Parts, labels: Parts, weighting: LossWeighting, precision: Precision) -> Floats:
    """Train the default grid; return the (N, 14) test scores of the head that is best on val."""
    weights = torch.from_numpy(label_weights(labels[0], weighting))
    data, val, test = (
        Examples(torch.from_numpy(rows), torch.from_numpy(hot), weights)
        for rows, hot in zip(inputs, labels, strict=True)
    )
    trained = train(data, val, expand(DEFAULT_GRID, {}), TrainingSettings(early_stop=10, precision=precision))
    rankings = [rank(labels[1], infer(one.head(), val.inputs), FINDINGS) if one.best else None for one in trained]
    return infer(trained[choose(trained, rankings, SelectionMetric.AUROC)].head(), test.inputs)


def logistic_scores(inputs: Parts, labels: Parts) -> Floats:
    """Fit logistic regressions per finding; return the (N, 14) test scores of the C that is best on val."""
    scores = [np.zeros((len(CS), *part.shape), np.float32) for part in labels]  # (5, N, 14) each
    for number, strength in enumerate(CS):
        for finding in np.flatnonzero(labels[0].any(axis=0)):
            model = LogisticRegression(C=strength, max_iter=2000).fit(inputs[0], labels[0][:, finding])
            for part in (1, 2):
                scores[part][number, :, finding] = model.decision_function(inputs[part])
    means = [rank(labels[1], each, FINDINGS).mean or 0.0 for each in scores[1]]
    best: Floats = scores[2][int(np.argmax(means))]
    return best


SCORERS: dict[str, Callable[[Parts, Parts], Floats]] = {
    "head": lambda inputs, labels: head_scores(inputs, labels, LossWeighting.NONE, Precision.FP32),
    "weighted": lambda inputs, labels: head_scores(inputs, labels, LossWeighting.FREQUENCY, Precision.FP32),
    "bf16": lambda inputs, labels: head_scores(inputs, labels, LossWeighting.NONE, Precision.BF16),
    "logistic": logistic_scores,
}


def draw_folds(patients: Sequence[str], draws: int) -> Iterator[list[NDArray[np.int64]]]:
    """Yield the train, val and test rows of each fold, for each draw of the folds."""
    for seed in range(draws):
        folds = [
            test for _, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(patients, groups=patients)
        ]
        for number, test in enumerate(folds):
            val = folds[(number + 1) % FOLDS]
            yield [np.setdiff1d(np.arange(len(patients)), np.concatenate([val, test])), val, test]


def main(argv: Sequence[str] | None = None) -> int:
    """Train and test in each fold, and print mean AUROC; return 1 if the head is below logistic regression."""
    parser = machine.option_parser(__doc__, repeats=1)
    parser.add_argument("--features", required=True, nargs="+", help="folders of embeddings with findings")
    parser.add_argument("--scorers", nargs="+", choices=SCORERS, default=list(SCORERS), help="default: all")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    return max(compare(folder, options.scorers, options.repeats) for folder in options.features)


def compare(folder: str, names: Sequence[str], repeats: int) -> int:
    """Measure the scorers on the embeddings of one folder and print them; return 1 if the head loses."""
    features = load_features(folder, COVARIATES)
    patients = features.index.table["patient_id"].to_pylist()
    found: dict[str, list[float]] = {name: [] for name in names}
    for rows in draw_folds(patients, repeats):
        inputs, labels = [features.matrix[part] for part in rows], [features.labels[part] for part in rows]
        statistics = measure_inputs(inputs[0], COVARIATES, standardise=True)
        for part in inputs:
            statistics.apply(part)
        for name in names:
            found[name].append(rank(labels[2], SCORERS[name](inputs, labels), FINDINGS).mean or 0.0)
    print(f"{machine.describe()}; {folder}: {len(patients)} images of {len(set(patients))} patients; mean AUROC")
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    for name, values in found.items():
        print(f"{name:<10}{mean[name]:.4f}   folds {' '.join(f'{value:.3f}' for value in values)}")
    pairs = [("bf16", "head"), ("weighted", "head"), ("head", "logistic")]
    for name, other in (pair for pair in pairs if set(pair) <= set(names)):
        print(f"{name} - {other}: {mean[name] - mean[other]:+.4f}")
    return int({"head", "logistic"} <= set(names) and mean["head"] < mean["logistic"] - TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
