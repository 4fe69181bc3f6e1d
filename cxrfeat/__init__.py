"""Frozen-backbone feature extraction for chest X-rays: the library behind the Spark jobs and the head.

Importing this package loads neither torch nor pyspark; only :mod:`cxrfeat.spark` imports pyspark.
"""

__version__ = "0.1.0"

NOTICE = "Research software, not a medical device."
"""What every command, answer and report says."""
