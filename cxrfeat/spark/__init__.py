"""Everything that runs on Spark, and the only package here that imports pyspark."""
