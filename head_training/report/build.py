"""Selection of the report's sections from the given inputs, and writing of the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrfeat.errors import ConfigError, ReportError
from cxrfeat.io import storage
from cxrfeat.labels.label_sets import NIH14, load_label_set
from head_training.report.calibration_section import calibration_section
from head_training.report.cohort_section import data_section
from head_training.report.comparison_section import baselines_section, literature_section, subgroup_section
from head_training.report.contact_sheet import ImageFolder, contact_sheet
from head_training.report.evaluation_section import evaluation_section
from head_training.report.page import Section, render
from head_training.report.predictions_section import predictions_section
from head_training.report.report_images import ReportImages, read_cohort, read_report_images
from head_training.report.report_inputs import EvaluationMetrics, TrainingRun, read_metrics, read_run
from head_training.report.thresholds_section import operating_section, triage_section
from head_training.report.training_section import training_section

NAME = "report.html"

METRICS_SECTIONS = (
    evaluation_section,
    operating_section,
    calibration_section,
    triage_section,
    baselines_section,
    subgroup_section,
    literature_section,
)
"""Functions that make a section from metrics.json alone, in page order; sections without blocks are omitted."""


@dataclass(frozen=True)
class ReportConfig:
    """Inputs and output of a report; each input adds its sections.

    Attributes:
        output: folder of report.html.
        metadata: tables; without any, the data section describes the run's images.
        columns: TOML file with the column map of the tables; None recognises a known dialect.
        labels: label set of the data section; None for the run's, the evaluation's, or nih14.
        train_val_list, test_list: official lists of file names, both or neither.
        run: output folder of ``head_training.fit``.
        evaluation: metrics.json of ``head_training.evaluate``, or its folder.
        predictions: table of the evaluated predictions; by default the run's.
        images: folder of the images to show.

    Raises ConfigError if no input is given, or if an option would have no effect.
    """

    output: Path
    metadata: tuple[str, ...] = ()
    columns: str | None = None
    labels: str | None = None
    train_val_list: str | None = None
    test_list: str | None = None
    run: Path | None = None
    evaluation: Path | None = None
    predictions: Path | None = None
    images: str | None = None

    def __post_init__(self) -> None:
        """Reject combinations in which an option would have no effect."""
        if not self.metadata and self.run is None and self.evaluation is None:
            raise ConfigError("nothing to report on; give --metadata, --run or --evaluation")
        if not self.metadata and (self.columns is not None or self.labels is not None):
            raise ConfigError("--columns and --labels describe a metadata table; give --metadata too")
        if not self.metadata and (self.train_val_list is not None or self.test_list is not None):
            raise ConfigError("official lists split the images of a metadata file; give --metadata too")
        if self.images is not None and not self.metadata and self.run is None:
            raise ConfigError("--images needs the labels of the images; give --metadata or --run")
        if self.predictions is not None and (self.evaluation is None or self.images is None):
            raise ConfigError("--predictions are shown beside their images; give --evaluation and --images too")


def write_report(config: ReportConfig) -> Path:
    """Write ``output/report.html`` and return its path.

    Raises:
        CxrfeatError: an input is unreadable or invalid, or the page cannot be written.
    """
    path = config.output / NAME
    page = render("cxrfeat report", _subtitle(config), _sections(config))
    try:
        storage.write_text(str(path), page)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error}") from error
    return path


def _subtitle(config: ReportConfig) -> str:
    """Return the names of the inputs without their folders, since a report may be passed on to others."""
    inputs = [("data", path) for path in config.metadata]
    inputs += [(name, str(path)) for name in ("run", "evaluation") if (path := getattr(config, name)) is not None]
    return " · ".join(f"{name}: {Path(path).name}" for name, path in inputs)


def _sections(config: ReportConfig) -> list[Section]:
    folder = ImageFolder(config.images) if config.images is not None else None
    run = read_run(config.run) if config.run is not None else None
    metrics = _read_metrics(config.evaluation) if config.evaluation is not None else None
    data = _read_data(config, run, metrics)
    if folder is not None and data is not None and set(folder.names).isdisjoint(data.images["image_index"]):
        raise ConfigError(f"none of the {len(folder)} images in {config.images} is in the metadata; give their folder")
    sections = []
    if data is not None:
        sections.append(data_section(data, contact_sheet(data, folder) if folder is not None else None))
    if run is not None:
        sections.append(training_section(run))
    if metrics is not None:
        sections += [section for make in METRICS_SECTIONS if (section := make(metrics)).blocks]
        predictions = config.predictions or (config.run / "predictions.parquet" if config.run is not None else None)
        if predictions is not None and data is not None and folder is not None:
            sections.append(predictions_section(metrics, predictions, data, folder))
    return sections


def _read_data(config: ReportConfig, run: TrainingRun | None, metrics: EvaluationMetrics | None) -> ReportImages | None:
    source = run or metrics
    label_set = load_label_set(config.labels) if config.labels else source.label_set if source else NIH14
    if config.metadata:
        return read_report_images(
            config.metadata, config.train_val_list, config.test_list, columns=config.columns, label_set=label_set
        )
    return read_cohort(config.run / "cohort.parquet", label_set) if config.run is not None else None


def _read_metrics(path: Path) -> EvaluationMetrics:
    return read_metrics(path / "metrics.json" if path.is_dir() else path)
