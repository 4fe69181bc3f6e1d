"""spark-submit spark_jobs/extract.py: a folder of chest X-rays → Parquet embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from cxrfeat.cli import jobs
from cxrfeat.io.schema import Augmentation
from cxrfeat.labels.splits import SplitLevel, SplitRule
from cxrfeat.spark.embedding import EmbeddingConfig
from cxrfeat.spark.extract import ExtractConfig, extract
from cxrfeat.spark.session import open_session
from cxrfeat.spark.summary import format_summary, quarantined_share

DESCRIPTION = """\
Turn a folder of chest X-rays into Parquet embeddings, joined with their metadata.

Writes OUTPUT/embeddings, OUTPUT/metadata and OUTPUT/summary.json. Run the same command again to go on after a crash or
to add new images: no image is embedded twice."""


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the command line."""
    parser = jobs.make_parser(prog, "--images DIR --output DIR", DESCRIPTION)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--images", required=True, metavar="DIR_OR_URI", help="PNG and JPEG films, in folders of any depth"
    )
    data.add_argument(
        "--metadata",
        metavar="CSV[.gz]",
        help="labels and people, laid out as NIH's Data_Entry_2017*.csv; without it those columns are null",
    )
    data.add_argument(
        "--output", required=True, metavar="DIR_OR_URI", help="a new folder, or one made with the same settings"
    )
    data.add_argument(
        "--augment", type=Augmentation, choices=[Augmentation.HFLIP], help="also embed each film mirrored, for training"
    )
    split = parser.add_argument_group(
        "split", "by default patients go by a stable hash: 70 % train, 10 % val, 20 % test"
    )
    split.add_argument(
        "--train-val-list", metavar="FILE", help="official train_val_list.txt; 1 patient in 8 goes to val"
    )
    split.add_argument("--test-list", metavar="FILE", help="official test_list.txt")
    split.add_argument(
        "--split",
        type=SplitLevel,
        choices=list(SplitLevel),
        default=SplitLevel.PATIENT,
        help="image: leaks patients between splits, only to reproduce numbers of 2018",
    )
    jobs.add_network_options(parser)
    work = jobs.add_work_options(parser, round_size=4096, unit="images")
    work.add_argument("--replay-quarantine", action="store_true", help="first try again what is in quarantine")
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat extract") -> int:
    """Run the job; return the exit code."""
    options = vars(build_parser(prog).parse_args(argv))
    max_quarantined = options.pop("max_quarantined")
    augment = options.pop("augment")
    embedding = {field.name: options.pop(field.name) for field in fields(EmbeddingConfig)}
    level, train_val_list, test_list = (options.pop(name) for name in ("split", "train_val_list", "test_list"))

    def job() -> jobs.Outcome:
        split = SplitRule(level, train_val_list, test_list)
        config = ExtractConfig(
            EmbeddingConfig(**embedding), **options, split=split, augment=(augment,) if augment else ()
        )
        summary = extract(open_session("extract", interrupted=jobs.SAFE), config)
        return jobs.Outcome(format_summary(summary), quarantined_share(summary), f"{config.output}/embeddings")

    return jobs.run(job, max_quarantined=max_quarantined)
