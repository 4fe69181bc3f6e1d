"""Run ``spark-submit spark_jobs/score.py``: score Parquet drops of embeddings, or images."""

import sys

from cxrfeat.cli.score import main

if __name__ == "__main__":
    sys.exit(main(prog="spark-submit spark_jobs/score.py"))
