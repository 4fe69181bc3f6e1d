"""Spark jobs and their tables: the only package of the project that imports pyspark."""
