"""Feature extraction from chest X-rays with frozen backbones: the library behind the Spark jobs and the head.

Importing this package loads neither torch nor pyspark; only :mod:`cxrfeat.spark` imports pyspark.
"""

__version__ = "0.1.0"

NOTICE = "Research software, not a medical device."
"""Notice shown by every command, web response and report."""
