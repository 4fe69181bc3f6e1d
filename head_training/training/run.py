"""One run: embeddings → trained grid → the chosen head, its bundle and tables in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxrfeat.device import Device, find_device
from cxrfeat.errors import ConfigError
from cxrfeat.head.bundle import Bundle, save_bundle
from cxrfeat.head.calibration import Calibration
from cxrfeat.head.inputs import COVARIATES, Inputs
from cxrfeat.head.mlp import Head
from cxrfeat.io import storage
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS
from head_training.features.input_statistics import measure_inputs
from head_training.features.matrix import Features, load_features
from head_training.training.fit_calibration import CalibrationMethod, choose_thresholds, fit_calibration
from head_training.training.grid import Configuration
from head_training.training.history import TrainingHistory, TrainingSettings, TrainingStatus
from head_training.training.loss import LossWeighting, label_weights
from head_training.training.run_tables import check_output, write_cohort, write_grid, write_history, write_predictions
from head_training.training.selection import Ranking, SelectionMetric, choose, infer, rank
from head_training.training.trainer import Examples, initial_head, train
from head_training.training.training_progress import TrainingProgress


@dataclass(frozen=True)
class FitConfig:
    """What one run is to do; see ``python -m head_training.fit --help`` for each option.

    Raises ConfigError for an output that holds a head already, or can't be written to.
    """

    features: str
    output: Path
    configurations: Sequence[Configuration] = (Configuration(),)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    covariates: tuple[str, ...] = COVARIATES
    standardise: bool = True
    loss_weighting: LossWeighting = LossWeighting.NONE
    select: SelectionMetric = SelectionMetric.AUROC
    device: Device = Device.AUTO
    quiet: bool = False

    def __post_init__(self) -> None:
        """Qualify the features, and refuse to mix two runs."""
        object.__setattr__(self, "features", storage.qualify(self.features))
        if self.head.exists():
            raise ConfigError(f"{self.head} is there already; give another --output")
        check_output(self.output)

    @property
    def head(self) -> Path:
        """Folder of the bundle."""
        return self.output / "head"

    def describe(self) -> dict[str, Any]:
        """Return what decides the heads, as JSON values."""
        return {
            **asdict(self.settings),
            "inputs": ["embedding", *self.covariates],
            "standardise": self.standardise,
            "loss_weighting": self.loss_weighting,
            "select": self.select,
            "configurations": len(self.configurations),
        }


@dataclass(frozen=True)
class FitResult:
    """What came of a run.

    Attributes:
        courses: of all configurations.
        rankings: on validation, of each one's best epoch; None where there is none.
        chosen: index of the one in the bundle.
        head: the chosen one.
        logits: its (N, 14) logits of val and of test.
        calibration: from them to probabilities, fitted on val.
        methods: how each finding was calibrated.
        thresholds: chosen on val, by rule.
        test: how well it ranks the test split.
        untrained: how well the head that its training started from ranks val and test: what training must beat.
        imputed: values that were missing, by input.
        left_out: rows that were not used, by reason.
    """

    courses: Sequence[TrainingHistory]
    rankings: Sequence[Ranking | None]
    chosen: int
    head: Head
    logits: Sequence[NDArray[np.float32]]
    calibration: Calibration
    methods: Sequence[CalibrationMethod]
    thresholds: Mapping[str, Mapping[str, float | None]]
    test: Ranking
    untrained: Mapping[Split, Ranking]
    imputed: Mapping[str, int]
    left_out: Mapping[str, int]

    @property
    def course(self) -> TrainingHistory:
        """Of the chosen configuration."""
        return self.courses[self.chosen]

    @property
    def val(self) -> Ranking:
        """How well the chosen head ranks the validation split."""
        ranking = self.rankings[self.chosen]
        if ranking is None:
            raise ValueError(f"configuration {self.chosen} was chosen, but never ranked")
        return ranking

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return any(course.status == TrainingStatus.INTERRUPTED for course in self.courses)


def fit(config: FitConfig) -> FitResult:
    """Train all configurations, choose one on validation, test it once, and write the run.

    Raises:
        CxrfeatError: features, settings or a device that can't be used; no configuration that can be ranked.
        KeyboardInterrupt: before there was anything to keep.
    """
    device = find_device(config.device)
    features = load_features(config.features, config.covariates)
    train_rows = features.rows(Split.TRAIN)
    inputs = measure_inputs(features.matrix[train_rows], config.covariates, standardise=config.standardise)
    imputed = inputs.apply(features.matrix)
    weights = label_weights(features.labels[train_rows], config.loss_weighting)
    examples = {split: _examples(features, split, weights, device) for split in Split}
    courses = _train(config, examples)
    if not any(course.history for course in courses):
        raise KeyboardInterrupt
    val_labels, test_labels = (features.labels[features.rows(split)] for split in (Split.VAL, Split.TEST))
    val, test = examples[Split.VAL].inputs, examples[Split.TEST].inputs
    rankings = [rank(val_labels, infer(course.head(), val)) if course.best else None for course in courses]
    chosen = choose(courses, rankings, config.select)
    head = courses[chosen].head()
    logits = [infer(head, val), infer(head, test)]  # only now, and only once
    ranking = rank(test_labels, logits[1])
    patients = features.index.table["patient_id"].to_numpy()[features.rows(Split.VAL)]
    calibration, methods = fit_calibration(logits[0], val_labels, patients, weights)
    thresholds = choose_thresholds(val_labels, calibration.apply(torch.from_numpy(logits[0])).numpy())
    initial = initial_head(val.shape[1], courses[chosen].configuration.hidden, config.settings.seed)
    untrained = {
        split: rank(labels, infer(initial, examples[split].inputs))
        for split, labels in ((Split.VAL, val_labels), (Split.TEST, test_labels))
    }
    result = FitResult(
        courses=courses,
        rankings=rankings,
        chosen=chosen,
        head=head.cpu(),
        logits=logits,
        calibration=calibration,
        methods=methods,
        thresholds=thresholds,
        test=ranking,
        untrained=untrained,
        imputed=imputed,
        left_out=features.index.left_out,
    )
    _write(config, features, inputs, result, weights)
    return result


def _write(
    config: FitConfig, features: Features, inputs: Inputs, result: FitResult, weights: NDArray[np.float32]
) -> None:
    """Write the tables, then the bundle: where ``output/head`` is, everything is."""
    config.output.mkdir(parents=True, exist_ok=True)
    write_grid(config.output / "grid.parquet", result.courses, result.rankings, result.chosen)
    write_history(config.output / "history.parquet", result.courses)
    judged = features.index.table.slice(features.rows(Split.VAL).start)  # val, then test: the order of the index
    logits = torch.from_numpy(np.concatenate(result.logits))
    scores, probabilities = logits.sigmoid().numpy(), result.calibration.apply(logits).numpy()
    write_predictions(config.output / "predictions.parquet", judged, scores, probabilities)
    write_cohort(config.output / "cohort.parquet", features.index.table)
    record = _record(config, features, result, weights)
    bundle = Bundle(
        head=result.head,
        inputs=inputs,
        hidden=result.course.configuration.hidden,
        extractor=features.index.extractor,
        calibration=result.calibration,
        thresholds=result.thresholds,
        training=record,
    )
    grid = [asdict(configuration) for configuration in config.configurations]
    resolved = {
        "features": config.features,
        "device": config.device,
        "head": bundle.fingerprint,
        **record,
        "grid": grid,
    }
    (config.output / "config.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
    save_bundle(bundle, config.head)


def _train(config: FitConfig, examples: dict[Split, Examples]) -> list[TrainingHistory]:
    progress = TrainingProgress(
        rows=len(examples[Split.TRAIN].inputs),
        configurations=len(config.configurations),
        epochs=config.settings.epochs,
        quiet=config.quiet,
    )
    with progress:
        return train(
            examples[Split.TRAIN],
            examples[Split.VAL],
            config.configurations,
            config.settings,
            on_step=progress.on_step,
            on_epoch=progress.on_epoch,
        )


def _examples(features: Features, split: Split, weights: NDArray[np.float32], device: torch.device) -> Examples:
    """Return a split on the device; on a CPU it is a view of the matrix, not a copy."""
    rows = features.rows(split)
    arrays = (features.matrix[rows], features.labels[rows], weights)
    return Examples(*(torch.from_numpy(array).to(device) for array in arrays))


def _record(config: FitConfig, features: Features, result: FitResult, weights: NDArray[np.float32]) -> dict[str, Any]:
    """Return how the head came to be, for its bundle: nothing in it depends on where the run was made."""
    course = result.course
    table = features.index.table
    rows = {split.value: features.rows(split) for split in Split}
    positives = features.labels[rows[Split.TRAIN]].sum(axis=0).astype(int).tolist()
    return {
        "settings": config.describe(),
        "configuration": {"name": course.name, **asdict(course.configuration)},
        "best_epoch": course.best.epoch.epoch if course.best else None,
        "status": str(course.status),
        "rows": {name: part.stop - part.start for name, part in rows.items()},
        "patients": {
            name: len(table["patient_id"].slice(part.start, part.stop - part.start).unique())
            for name, part in rows.items()
        },
        "train_positives": dict(zip(FINDINGS, positives, strict=True)),
        "left_out": dict(result.left_out),
        "imputed_values": dict(result.imputed),
        "label_weights": {
            name: dict(zip(FINDINGS, values, strict=True))
            for name, values in zip(("negative", "positive"), weights.tolist(), strict=True)
        },
        "calibrated_by": dict(zip(FINDINGS, result.methods, strict=True)),
        "val": result.val.describe(),
        "test": result.test.describe(),
        "untrained": {split.value: ranking.describe() for split, ranking in result.untrained.items()},
    }
