"""Command line of ``cxrfeat score`` and ``spark-submit spark_jobs/score.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from cxrfeat.cli import jobs
from cxrfeat.errors import ConfigError
from cxrfeat.head.thresholds import DEFAULT_RULE, RULES
from cxrfeat.spark.embedding import EmbeddingConfig
from cxrfeat.spark.predictions_table import format_summary, quarantined_share
from cxrfeat.spark.score import ScoreConfig, score
from cxrfeat.spark.session import open_session

DESCRIPTION = """\
Predict the probabilities of a trained head's labels, from Parquet drops of embeddings or from images.

Writes OUTPUT/predictions and OUTPUT/summary.json. Run the same command again to continue after a crash or to score new
files: no file is scored twice."""

_EMBEDDING = tuple(field.name for field in fields(EmbeddingConfig) if field.name != "images")


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = jobs.make_parser(prog, "(--drops DIR | --images DIR) --head RUN/head --output DIR", DESCRIPTION)
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--drops", metavar="DIR_OR_URI", help="Parquet files with embeddings, at any depth of a folder")
    source.add_argument("--images", metavar="DIR_OR_URI", help="images, scored without storing their embeddings")
    data.add_argument("--head", required=True, metavar="DIR_OR_URI", help="RUN/head, written by cxrfeat fit")
    data.add_argument(
        "--output", required=True, metavar="DIR_OR_URI", help="new folder, or one written with the same settings"
    )
    data.add_argument(
        "--operating-point",
        default=DEFAULT_RULE,
        metavar="RULE",
        help=f"rule of the decision thresholds, one of {', '.join(RULES)} (default {DEFAULT_RULE})",
    )
    jobs.add_metadata_options(data, "with --images only: age and sex, imputed if not given")
    jobs.add_image_options(data)
    jobs.add_network_options(parser, default="that of the head", note="with --images only")
    jobs.add_work_options(parser, round_size=256, unit="files")
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat score") -> int:
    """Run the job and return its exit code."""
    parser = build_parser(prog)
    options = vars(parser.parse_args(argv))
    max_quarantined = options.pop("max_quarantined")
    drops, images = options.pop("drops"), options.pop("images")
    embedding = {name: options.pop(name) for name in _EMBEDDING}

    def job() -> jobs.Outcome:
        given = [f"--{name.replace('_', '-')}" for name in _EMBEDDING if embedding[name] != parser.get_default(name)]
        if images is None and given:
            raise ConfigError(f"{', '.join(given)}: only valid with --images; drops contain embeddings and metadata")
        embedding["metadata"] = tuple(embedding["metadata"])
        embed = None if images is None else EmbeddingConfig(images, **embedding)
        config = ScoreConfig(images or drops, embedding=embed, **options)
        summary = score(open_session("score", interrupted=jobs.SAFE), config)
        return jobs.Outcome(format_summary(summary), quarantined_share(summary), f"{config.output}/predictions")

    return jobs.run(job, max_quarantined=max_quarantined)
