"""Training run: train a grid on embeddings, choose a head, and write its bundle and tables."""

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
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14
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
    """Configuration of one run; ``python -m head_training.fit --help`` documents each option.

    Raises ConfigError for an output that already contains a head or is not writable.
    """

    features: str
    output: Path
    configurations: Sequence[Configuration] = (Configuration(),)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    label_set: LabelSet = NIH14
    drop_empty: bool = False
    as_written: bool = False
    covariates: tuple[str, ...] = COVARIATES
    standardise: bool = True
    loss_weighting: LossWeighting = LossWeighting.NONE
    select: SelectionMetric = SelectionMetric.AUROC
    device: Device = Device.AUTO
    quiet: bool = False

    def __post_init__(self) -> None:
        """Qualify the path of the features, and check the output."""
        object.__setattr__(self, "features", storage.qualify(self.features))
        if self.head.exists():
            raise ConfigError(f"{self.head} already exists; choose another --output")
        check_output(self.output)

    @property
    def head(self) -> Path:
        """Folder of the bundle."""
        return self.output / "head"

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the heads, as JSON values."""
        return {
            **asdict(self.settings),
            "label_set": self.label_set.name,
            "inputs": ["embedding", *self.covariates],
            "standardise": self.standardise,
            "loss_weighting": self.loss_weighting,
            "select": self.select,
            "configurations": len(self.configurations),
        }


@dataclass(frozen=True)
class FitResult:
    """Results of one training run.

    Attributes:
        histories: training history of each configuration.
        rankings: ranking of each one's best epoch on val; None without a best epoch.
        chosen: index of the chosen configuration.
        label_set: labels of the head.
        head: the chosen head.
        logits: its (N, F) logits on val and on test.
        calibration: its calibration, fitted on val.
        methods: calibration method of each finding.
        thresholds: thresholds by rule, chosen on val.
        test: ranking of the chosen head on test.
        untrained: rankings of the head's initial weights on val and test: the baseline of the training.
        imputed: number of imputed values by input.
        left_out: number of unused rows by reason.
        impossible_ages: number of ages below 0 or above 123 years, taken as missing.
    """

    histories: Sequence[TrainingHistory]
    rankings: Sequence[Ranking | None]
    chosen: int
    label_set: LabelSet
    head: Head
    logits: Sequence[NDArray[np.float32]]
    calibration: Calibration
    methods: Sequence[CalibrationMethod]
    thresholds: Mapping[str, Mapping[str, float | None]]
    test: Ranking
    untrained: Mapping[Split, Ranking]
    imputed: Mapping[str, int]
    left_out: Mapping[str, int]
    impossible_ages: int

    @property
    def history(self) -> TrainingHistory:
        """Training history of the chosen configuration."""
        return self.histories[self.chosen]

    @property
    def val(self) -> Ranking:
        """Ranking of the chosen head on val."""
        ranking = self.rankings[self.chosen]
        if ranking is None:
            raise ValueError(f"the chosen configuration {self.chosen} has no ranking")
        return ranking

    @property
    def interrupted(self) -> bool:
        """True if Ctrl-C ended the training."""
        return any(history.status == TrainingStatus.INTERRUPTED for history in self.histories)


def fit(config: FitConfig) -> FitResult:
    """Train all configurations, choose one on validation, test it once, and write the run.

    Raises:
        CxrfeatError: unusable features, settings or device, or no configuration can be ranked.
        KeyboardInterrupt: Ctrl-C before the end of the first epoch.
    """
    device = find_device(config.device)
    features = load_features(
        config.features,
        config.covariates,
        config.label_set,
        drop_empty=config.drop_empty,
        as_written=config.as_written,
    )
    label_set = features.index.label_set
    names = label_set.outputs
    train_rows = features.rows(Split.TRAIN)
    inputs = measure_inputs(features.matrix[train_rows], config.covariates, standardise=config.standardise)
    imputed = inputs.apply(features.matrix)
    weights = label_weights(features.labels[train_rows], config.loss_weighting)
    examples = {split: _examples(features, split, weights, device) for split in Split}
    histories = _train(config, examples)
    if not any(history.epochs for history in histories):
        raise KeyboardInterrupt
    val_labels, test_labels = (features.labels[features.rows(split)] for split in (Split.VAL, Split.TEST))
    val, test = examples[Split.VAL].inputs, examples[Split.TEST].inputs
    rankings = [rank(val_labels, infer(history.head(), val), names) if history.best else None for history in histories]
    chosen = choose(histories, rankings, config.select)
    head = histories[chosen].head()
    logits = [infer(head, val), infer(head, test)]  # the only use of test by a trained head: after the choice
    ranking = rank(test_labels, logits[1], names)
    patients = features.index.table["patient_id"].to_numpy()[features.rows(Split.VAL)]
    calibration, methods = fit_calibration(logits[0], val_labels, patients, weights)
    thresholds = choose_thresholds(val_labels, calibration.apply(torch.from_numpy(logits[0])).numpy(), label_set)
    initial = initial_head(val.shape[1], histories[chosen].configuration.hidden, len(names), config.settings.seed)
    untrained = {
        split: rank(labels, infer(initial, examples[split].inputs), names)
        for split, labels in ((Split.VAL, val_labels), (Split.TEST, test_labels))
    }
    result = FitResult(
        histories=histories,
        rankings=rankings,
        chosen=chosen,
        label_set=label_set,
        head=head.cpu(),
        logits=logits,
        calibration=calibration,
        methods=methods,
        thresholds=thresholds,
        test=ranking,
        untrained=untrained,
        imputed=imputed,
        left_out=features.index.left_out,
        impossible_ages=features.index.impossible_ages,
    )
    _write(config, features, inputs, result, weights)
    return result


def _write(
    config: FitConfig, features: Features, inputs: Inputs, result: FitResult, weights: NDArray[np.float32]
) -> None:
    """Write the tables, then the bundle: ``output/head`` exists only in a complete run."""
    config.output.mkdir(parents=True, exist_ok=True)
    names = result.label_set.outputs
    write_grid(config.output / "grid.parquet", result.histories, result.rankings, result.chosen, names)
    write_history(config.output / "history.parquet", result.histories)
    rows = features.index.table.slice(features.rows(Split.VAL).start)  # val, then test: the order of the index
    logits = torch.from_numpy(np.concatenate(result.logits))
    scores, probabilities = logits.sigmoid().numpy(), result.calibration.apply(logits).numpy()
    write_predictions(config.output / "predictions.parquet", rows, scores, probabilities, names)
    write_cohort(config.output / "cohort.parquet", features.index.table)
    record = _record(config, features, result, weights)
    bundle = Bundle(
        head=result.head,
        inputs=inputs,
        hidden=result.history.configuration.hidden,
        extractor=features.index.extractor,
        calibration=result.calibration,
        thresholds=result.thresholds,
        training=record,
        label_set=result.label_set,
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
    """Return a split on the device; on the CPU, a view of the matrix."""
    rows = features.rows(split)
    labels, known = features.labels[rows], ~np.isnan(features.labels[rows])  # (N, F) each
    arrays = [features.matrix[rows], labels, weights]
    if not known.all():
        arrays = [features.matrix[rows], np.where(known, labels, np.float32(0)), weights, known]
    return Examples(*(torch.from_numpy(array).to(device) for array in arrays))


def _record(config: FitConfig, features: Features, result: FitResult, weights: NDArray[np.float32]) -> dict[str, Any]:
    """Return the training record of the bundle, which does not depend on the machine or on paths."""
    history = result.history
    table = features.index.table
    rows = {split.value: features.rows(split) for split in Split}
    names, labels = result.label_set.outputs, features.labels[rows[Split.TRAIN]]
    positives = np.nansum(labels, axis=0).astype(int).tolist()
    unknown = np.isnan(labels).sum(axis=0).tolist()
    return {
        "settings": config.describe(),
        "configuration": {"name": history.name, **asdict(history.configuration)},
        "best_epoch": history.best_epoch,
        "status": str(history.status),
        "rows": {name: part.stop - part.start for name, part in rows.items()},
        "patients": {
            name: len(table["patient_id"].slice(part.start, part.stop - part.start).unique())
            for name, part in rows.items()
        },
        "train_positives": dict(zip(names, positives, strict=True)),
        "train_unknown": dict(zip(names, unknown, strict=True)),
        "left_out": dict(result.left_out),
        "impossible_ages": result.impossible_ages,
        "imputed_values": dict(result.imputed),
        "label_weights": {
            name: dict(zip(names, values, strict=True))
            for name, values in zip(("negative", "positive"), weights.tolist(), strict=True)
        },
        "calibrated_by": dict(zip(names, result.methods, strict=True)),
        "val": result.val.describe(),
        "test": result.test.describe(),
        "untrained": {split.value: ranking.describe() for split, ranking in result.untrained.items()},
    }
