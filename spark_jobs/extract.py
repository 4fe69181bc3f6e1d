"""Turn a folder of chest X-rays into Parquet embeddings: OUT/embeddings, OUT/metadata, OUT/summary.json.

Run it again to go on after a crash or to add new images: an image is never embedded twice.

exit codes: 0 done; 1 failed, run it again to go on; 2 options or input that can't be used; 3 done, but more images are
in quarantine than --max-quarantined allows; 130 interrupted. Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cxrfeat.backbone import BACKBONES
from cxrfeat.encoder import Precision
from cxrfeat.errors import CxrfeatError, DatasetIntegrityError
from cxrfeat.schema import Augmentation
from cxrfeat.spark.extract import Device, ExtractConfig, extract
from cxrfeat.spark.session import open_session
from cxrfeat.spark.splits import SplitRule
from cxrfeat.spark.summary import format_summary, quarantined_share
from cxrfeat.splits import SplitLevel


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="extract.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--images", required=True, metavar="DIR_OR_URI", help="PNG and JPEG films, in folders of any depth"
    )
    data.add_argument("--metadata", metavar="CSV[.gz]", help="Data_Entry_2017*.csv; without it those columns are null")
    data.add_argument(
        "--output", required=True, metavar="DIR_OR_URI", help="one backbone, one split, one images folder each"
    )
    data.add_argument(
        "--max-quarantined", type=float, default=0.01, metavar="FRACTION", help="of all images (default 0.01)"
    )
    split = parser.add_argument_group("split (default: by a hash of the patient, 70/10/20)")
    split.add_argument(
        "--train-val-list", metavar="FILE", help="the official train_val_list.txt; val is 1 patient in 8 of it"
    )
    split.add_argument("--test-list", metavar="FILE", help="the official test_list.txt")
    split.add_argument("--split", choices=list(SplitLevel), default=SplitLevel.PATIENT, type=SplitLevel,
                       help="'image' leaks patients between splits: only to reproduce numbers of 2018")  # fmt: skip
    network = parser.add_argument_group("network")
    network.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50",
                         help="resnet50-v1: stride in the 1x1 convolution, for weights from Keras or Caffe")  # fmt: skip
    network.add_argument(
        "--weights", metavar="PATH|NAME", help="file, torchvision name, or 'random' (default IMAGENET1K_V1)"
    )
    network.add_argument("--augment", choices=["hflip"], help="embed each film mirrored as well, for training")
    network.add_argument("--precision", choices=list(Precision), default=Precision.AUTO, type=Precision,
                         help="auto: bf16 where the device has it")  # fmt: skip
    work = parser.add_argument_group("work")
    work.add_argument("--device", choices=list(Device), default=Device.AUTO, type=Device, help="of the executors")
    work.add_argument("--batch-size", type=int, metavar="N", help="images at once (default 8 on a CPU, 128 on a GPU)")
    work.add_argument("--round-size", type=int, default=2048, metavar="N", help="images a commit (default 2048)")
    work.add_argument("--watch", type=float, metavar="SECONDS", help="look for new images this often until interrupted")
    work.add_argument("--replay-quarantine", action="store_true", help="first try again what is in quarantine")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    options = vars(build_parser().parse_args(argv))
    limit = options.pop("max_quarantined")
    augment = options.pop("augment")
    rule = {"level": options.pop("split"), **{key: options.pop(key) for key in ("train_val_list", "test_list")}}
    try:
        config = ExtractConfig(**options, split=SplitRule(**rule), augment=(Augmentation(augment),) if augment else ())
        summary = extract(open_session("extract"), config)
    except CxrfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, DatasetIntegrityError) else 2
    except KeyboardInterrupt:
        print("interrupted: every committed round is safe; run the same command to go on", file=sys.stderr)
        return 130
    print(format_summary(summary))
    share = quarantined_share(summary)
    if share > limit:
        print(f"error: {share:.2%} of the images are in quarantine, more than the {limit:.2%} allowed", file=sys.stderr)
    return 3 if share > limit else 0


if __name__ == "__main__":
    sys.exit(main())
