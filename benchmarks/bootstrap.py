"""The patient-level bootstrap against loops over scikit-learn, side by side in one run: AUROC and average precision.

    python -m benchmarks.bootstrap [--images N] [--patients N] [--resamples N] [--loop N]

ours          every resample, drawing included
drawn rows    scikit-learn on the rows of each resample
weights       scikit-learn on all rows, with the times a patient was drawn as sample_weight
The loops run on the first few resamples (--loop) and are scaled up; all three give the same numbers, which is checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import machine
from cxrfeat.labels.findings import FINDINGS
from head_training.evaluation.bootstrap import PatientBootstrap

IMAGES, PATIENTS = 25_596, 2_797
"""Of NIH's official test split."""

POSITIVES = (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86)
"""Of each finding in it, by Data_Entry_2017_v2020.csv."""


def make(images: int, patients: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the patient of each image, labels (N, 14) and float32 scores (N, 14); a few patients have many images."""
    random = np.random.default_rng(seed)
    more = random.choice(patients, images - patients, p=random.dirichlet(np.full(patients, 0.5)))
    labels = random.uniform(size=(images, len(FINDINGS))) < np.array(POSITIVES) / IMAGES
    scores = 1 / (1 + np.exp(-random.normal(size=labels.shape) - 1.2 * labels))
    return np.sort(np.concatenate([np.arange(patients), more])), labels, scores.astype(np.float32)


def score(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> list[tuple[float, float]]:
    """Return both numbers of each finding by scikit-learn."""
    return [
        (
            roc_auc_score(labels[:, column], scores[:, column], sample_weight=weights),
            average_precision_score(labels[:, column], scores[:, column], sample_weight=weights),
        )
        for column in range(labels.shape[1])
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the three in turn, and print times and the ratio that we promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=10, help="resamples of the loops")
    options = parser.parse_args(argv)
    patients, labels, scores = make(options.images, options.patients)

    start = time.perf_counter()
    resamples = PatientBootstrap(patients, resamples=options.resamples)
    ours = np.array([resamples.rank(labels[:, column], scores[:, column]) for column in range(len(FINDINGS))])
    seconds = {"ours": time.perf_counter() - start, "drawn rows": 0.0, "weights": 0.0}

    difference = 0.0
    for number in range(options.loop):
        times = resamples.counts[:, number].astype(int)[np.searchsorted(np.unique(patients), patients)]
        for name in ("drawn rows", "weights"):
            start = time.perf_counter()
            if name == "weights":
                found = score(labels, scores, times)
            else:
                rows = np.repeat(np.arange(len(patients)), times)
                found = score(labels[rows], scores[rows])
            seconds[name] += (time.perf_counter() - start) * options.resamples / options.loop
            difference = max(difference, float(np.abs(ours[:, :, number] - found).max()))

    print(f"{machine.describe()}; {options.images} images of {options.patients} patients, {len(FINDINGS)} findings")
    print(f"seconds for {options.resamples} resamples; the loops scaled from {options.loop}")
    for name, total in seconds.items():
        print(f"{name:<12}{total:9.2f}")
    fastest = min(total for name, total in seconds.items() if name != "ours")
    print(f"ours / faster loop   {seconds['ours'] / fastest:8.4f}   (bar: 0.10, and ours below 30 s)")
    print(f"largest difference   {difference:8.1e}   (bar: 1e-12)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
