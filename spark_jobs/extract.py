"""Run ``spark-submit spark_jobs/extract.py``: embed a folder of chest X-rays into Parquet."""

import sys

from cxrfeat.cli.extract import main

if __name__ == "__main__":
    sys.exit(main(prog="spark-submit spark_jobs/extract.py"))
