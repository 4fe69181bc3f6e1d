"""The chosen head against logistic regression on real films: mean AUROC over patient-grouped folds.

    python -m benchmarks.quality --images DIR --metadata CSV[.gz] --weights PATH --backbone resnet50-v1

Each fold is once test and once val; the other three train. Our head is the best of the default grid on val, without and with weights
and in bf16; logistic regression the best of five C on val. Both see the same standardised embeddings, age and sex.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from cxrfeat.backbones.encoder import EncoderSpec, load_encoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Precision
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.images import png_jpeg
from cxrfeat.io import storage
from cxrfeat.io.schema import HANDLE
from cxrfeat.labels.columns import HEADERS
from cxrfeat.labels.findings import FINDINGS, parse_findings, to_multi_hot
from cxrfeat.pipeline.embed import embed_batches
from head_training.evaluation.ranking import aurocs
from head_training.features.input_statistics import measure_inputs
from head_training.training.grid import DEFAULT_GRID, expand
from head_training.training.history import TrainingSettings
from head_training.training.loss import LossWeighting, label_weights
from head_training.training.selection import SelectionMetric, choose, infer, rank
from head_training.training.trainer import Examples, train

FOLDS = 5
CS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
MIN_POSITIVES = 10

Floats = NDArray[np.float32]


def embed(images: str, backbone: str, weights: str) -> pd.DataFrame:
    """Embed all films of a folder, in this process."""
    spec = EncoderSpec(backbone, find_weights(get_backbone(backbone), weights))
    files = [storage.join(images, name) for name in sorted(storage.list_files(images, png_jpeg.SUFFIXES))]
    handles = pa.record_batch({"uri": files}, HANDLE)
    encoder = load_encoder(spec, "cpu", torch.get_num_threads())
    return pa.Table.from_batches(list(embed_batches([handles], encoder=encoder, root=images))).to_pandas()


def head_scores(
    rows: list[Floats], labels: list[Floats], weighting: LossWeighting, precision: Precision = Precision.FP32
) -> Floats:
    """Train the default grid and return the chosen head's scores of the test rows; train, val, test in both lists."""
    weights = label_weights(labels[0], weighting)
    data, val, test = (
        Examples(torch.from_numpy(inputs), torch.from_numpy(hot), torch.from_numpy(weights))
        for inputs, hot in zip(rows, labels, strict=True)
    )
    courses = train(data, val, expand(DEFAULT_GRID, {}), TrainingSettings(early_stop=10, precision=precision))
    rankings = [rank(labels[1], infer(course.head(), val.inputs)) if course.best else None for course in courses]
    return infer(courses[choose(courses, rankings, SelectionMetric.AUROC)].head(), test.inputs)


def logistic_scores(rows: list[Floats], labels: list[Floats]) -> Floats:
    """Fit five logistic regressions for each finding, and return the test scores of the C that is best on val."""
    scores = [np.zeros((len(CS), *part.shape), np.float32) for part in labels]
    for number, strength in enumerate(CS):
        for column in np.flatnonzero(labels[0].any(axis=0)):
            model = LogisticRegression(C=strength, max_iter=2000).fit(rows[0], labels[0][:, column])
            for part in (1, 2):
                scores[part][number, :, column] = model.decision_function(rows[part])
    means = [rank(labels[1], each).mean or 0.0 for each in scores[1]]
    best: Floats = scores[2][int(np.argmax(means))]
    return best


def draw_folds(patients: NDArray[np.int64], drawings: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield val and test rows of five folds, drawn several times over."""
    for drawing in range(drawings):
        split = GroupKFold(FOLDS, shuffle=True, random_state=drawing).split(patients, groups=patients)
        folds = [test for _, test in split]
        yield from ((folds[(number + 1) % FOLDS], test) for number, test in enumerate(folds))


def main(argv: Sequence[str] | None = None) -> int:
    """Embed, train and test both in each fold, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--metadata", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--drawings", type=int, default=1, metavar="N", help="of the folds (default 1)")
    options = parser.parse_args(argv)
    table = embed(options.images, options.backbone, options.weights)
    metadata = pd.read_csv(options.metadata).set_index("Image Index").loc[table["image_index"]]
    labels = to_multi_hot([parse_findings(label) for label in metadata["Finding Labels"]])
    (sex,) = (metadata[name] for name in HEADERS["sex"] if name in metadata)
    extras = np.stack([metadata["Patient Age"], sex == "M"], axis=1)
    rows = np.concatenate([np.stack(list(table["embedding"])), extras], axis=1).astype(np.float32)
    patients = metadata["Patient ID"].to_numpy()
    frequent = labels.sum(axis=0) >= MIN_POSITIVES
    scorers: dict[str, Callable[[list[Floats], list[Floats]], Floats]] = {
        "head": lambda rows, labels: head_scores(rows, labels, LossWeighting.NONE),
        "weighted": lambda rows, labels: head_scores(rows, labels, LossWeighting.FREQUENCY),
        "bf16": lambda rows, labels: head_scores(rows, labels, LossWeighting.NONE, Precision.BF16),
        "logistic": logistic_scores,
    }
    results: dict[str, list[float]] = {name: [] for name in scorers}
    warnings.simplefilter("ignore", ConvergenceWarning)
    for val, test in draw_folds(patients, options.drawings):
        parts = [np.setdiff1d(np.arange(len(rows)), np.concatenate([val, test])), val, test]
        split = [rows[part] for part in parts]
        inputs = measure_inputs(split[0], COVARIATES, standardise=True)
        for part in split:
            inputs.apply(part)
        hot = [labels[part] for part in parts]
        for name, scorer in scorers.items():
            found = [entry.auroc for entry in aurocs(hot[2], scorer(split, hot))]
            known = [auroc for auroc, often in zip(found, frequent, strict=True) if often and auroc is not None]
            results[name].append(float(np.mean(known)))
    findings = [finding for finding, often in zip(FINDINGS, frequent, strict=True) if often]
    print(f"{len(rows)} films of {len(set(patients))} patients; findings with {MIN_POSITIVES} positives: {findings}")
    for name, means in results.items():
        print(f"{name:<10}{np.mean(means):.4f}   folds {' '.join(f'{mean:.3f}' for mean in means)}")
    print(f"bf16 - head      {np.mean(results['bf16']) - np.mean(results['head']):+.4f}")
    print(f"head - logistic  {np.mean(results['head']) - np.mean(results['logistic']):+.4f}   (bar: -0.01)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
