#!/usr/bin/env bash
# Sourced by every command of the Spark in .venv ("make env" puts it there): workers and driver run in the interpreter
# that has the project, activated or not, and a missing Java is one line instead of a stack trace.
venv="${SPARK_HOME}/../../../.."
PYSPARK_PYTHON="${PYSPARK_PYTHON:-"${venv}/bin/python"}"
"${PYSPARK_PYTHON}" -m cxrfeat.spark.java >/dev/null || exit 1

# The JVM lists, plans and writes; the cores belong to the network. One collector thread and a quick compiler start faster
# and leave more to Python; the slow compiler is kept for loops that run for every number of a table (benchmarks/LOG.md).
# Set SPARK_SUBMIT_OPTS to have other options instead of these; spark.driver.extraJavaOptions come after them.
SPARK_SUBMIT_OPTS="${SPARK_SUBMIT_OPTS:-"-XX:+UseSerialGC -XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=30000 \
-XX:Tier4CompileThreshold=100000 -XX:Tier4BackEdgeThreshold=400000"}"

# Spark's classes as Java had them in memory in the rehearsal of "make env": a job starts 5 s sooner. Java takes them only if
# no folder with files is on its class path, so conf, where its log4j2.properties is all that counts, is taken off. A
# spark-defaults.conf of your own in conf keeps it there.
if [ -r "${venv}/classes.jsa" ] && [ ! -e "${SPARK_CONF_DIR}/spark-defaults.conf" ]; then
  SPARK_SUBMIT_OPTS="${SPARK_SUBMIT_OPTS} -XX:SharedArchiveFile=${venv}/classes.jsa -Xlog:cds*=off -Xlog:class+path=off \
-Dlog4j2.configurationFile=${SPARK_CONF_DIR}/log4j2.properties"
  SPARK_CONF_DIR="${SPARK_CONF_DIR}/none"
fi
unset venv  # all that is set here is exported
