"""Command line of ``cxrfeat extract`` and ``spark-submit spark_jobs/extract.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from cxrfeat.cli import jobs
from cxrfeat.images.views import parse_views
from cxrfeat.io.schema import Augmentation
from cxrfeat.labels.splits import SplitLevel, SplitRule
from cxrfeat.spark.embedding import EmbeddingConfig
from cxrfeat.spark.extract import ExtractConfig, extract
from cxrfeat.spark.session import open_session
from cxrfeat.spark.summary import describe_unmatched, format_summary, quarantined_share

DESCRIPTION = """\
Embed a folder of chest X-rays and write the embeddings to Parquet, joined with their metadata.

Writes OUTPUT/embeddings, OUTPUT/metadata and OUTPUT/summary.json. Run the same command again to continue after a crash
or to add new images: no image is embedded twice."""


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = jobs.make_parser(prog, "--images DIR --output DIR", DESCRIPTION)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--images",
        required=True,
        metavar="DIR_OR_URI",
        help="folder of images, searched at any depth: files, and members of tar, tar.gz, zip and TFRecord files",
    )
    jobs.add_metadata_options(
        data,
        "labels and patients: one table, or several that share key columns; without it those columns are null",
    )
    jobs.add_image_options(data)
    data.add_argument(
        "--max-unmatched",
        type=jobs.to_fraction,
        default=0.01,
        metavar="FRACTION",
        help="exit with code 4 if more than this fraction of the images has no metadata, or of the metadata lines is "
        "rejected; with official lists also the largest fraction of images in neither list (default 0.01)",
    )
    data.add_argument(
        "--output", required=True, metavar="DIR_OR_URI", help="new folder, or one written with the same settings"
    )
    data.add_argument(
        "--augment", type=Augmentation, choices=[Augmentation.HFLIP], help="embed each image mirrored too, for training"
    )
    data.add_argument(
        "--views",
        type=parse_views,
        default=(),
        metavar="hflip,affine:N",
        help="embed each training image also as these views: mirrored; N times rotated, shifted and zoomed by up to "
        "10 degrees or 10 %%",
    )
    data.add_argument("--view-seed", type=int, default=0, metavar="N", help="seed of the affine views (default 0)")
    split = parser.add_argument_group(
        "split", "by default a stable hash assigns patients: 70 % train, 10 % val, 20 % test"
    )
    split.add_argument(
        "--train-val-list", metavar="FILE", help="official train_val_list.txt; 1 of 8 patients goes to val"
    )
    split.add_argument("--test-list", metavar="FILE", help="official test_list.txt")
    split.add_argument(
        "--split",
        type=SplitLevel,
        choices=list(SplitLevel),
        default=SplitLevel.PATIENT,
        help="patient (default), or image, which leaks patients between splits: only to reproduce results of 2018",
    )
    jobs.add_network_options(parser)
    work = jobs.add_work_options(parser, round_size=4096, unit="images")
    work.add_argument("--replay-quarantine", action="store_true", help="embed the quarantined images again first")
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat extract") -> int:
    """Run the job and return its exit code."""
    options = vars(build_parser(prog).parse_args(argv))
    max_quarantined = options.pop("max_quarantined")
    augment = options.pop("augment")
    embedding = {field.name: options.pop(field.name) for field in fields(EmbeddingConfig)}
    embedding["metadata"] = tuple(embedding["metadata"])
    level, train_val_list, test_list = (options.pop(name) for name in ("split", "train_val_list", "test_list"))

    def job() -> jobs.Outcome:
        split = SplitRule(level, train_val_list, test_list)
        config = ExtractConfig(
            EmbeddingConfig(**embedding), **options, split=split, augment=(augment,) if augment else ()
        )
        summary = extract(open_session("extract", interrupted=jobs.SAFE), config)
        unmatched = describe_unmatched(summary, config.max_unmatched) if config.embedding.metadata else None
        table = f"{config.output}/embeddings"
        return jobs.Outcome(format_summary(summary), quarantined_share(summary), table, unmatched)

    return jobs.run(job, max_quarantined=max_quarantined)
