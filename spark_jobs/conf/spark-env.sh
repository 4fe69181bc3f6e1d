#!/usr/bin/env bash
# Sourced by every command of the Spark in .venv ("make env" puts it there): workers and driver run in the interpreter
# that has the project, activated or not, and a missing Java is one line instead of a stack trace.
PYSPARK_PYTHON="${PYSPARK_PYTHON:-"${SPARK_HOME}/../../../../bin/python"}"
"${PYSPARK_PYTHON}" -m cxrfeat.java >/dev/null || exit 1
