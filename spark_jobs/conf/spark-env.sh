#!/usr/bin/env bash
# Sourced by every command of the Spark in .venv, where "make env" copies it. Driver and workers run in the interpreter
# of .venv, activated or not, and a missing Java is reported in one line instead of a stack trace.
venv="${SPARK_HOME}/../../../.."
PYSPARK_PYTHON="${PYSPARK_PYTHON:-"${venv}/bin/python"}"
"${PYSPARK_PYTHON}" -m cxrfeat.spark.java >/dev/null || exit 1

# Java reads and writes names in the locale's encoding: one other than UTF-8 cannot hold every path.
case "${LC_ALL:-"${LC_CTYPE:-"${LANG:-}"}"}" in
  *[Uu][Tt][Ff]*) ;;
  *) LC_ALL=C.UTF-8 ;;
esac

# The JVM only plans and writes; the cores are for the network. A single GC thread and the fast compiler start
# faster and leave more CPU to Python; the optimizing compiler is kept for the hottest loops (benchmarks/LOG.md).
# Set SPARK_SUBMIT_OPTS to replace these options; spark.driver.extraJavaOptions are appended.
SPARK_SUBMIT_OPTS="${SPARK_SUBMIT_OPTS:-"-XX:+UseSerialGC -XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=30000 \
-XX:Tier4CompileThreshold=100000 -XX:Tier4BackEdgeThreshold=400000"}"

# The class data archive that "make env" dumps makes a job start 5 s sooner. Java accepts it only if the class path has no
# folder with files, so conf is removed from the class path and its log4j2.properties is passed by name. If you add a
# spark-defaults.conf to conf, conf stays and the archive is not used.
if [ -r "${venv}/classes.jsa" ] && [ ! -e "${SPARK_CONF_DIR}/spark-defaults.conf" ]; then
  SPARK_SUBMIT_OPTS="${SPARK_SUBMIT_OPTS} -XX:SharedArchiveFile=${venv}/classes.jsa -Xlog:cds*=off -Xlog:class+path=off \
-Dlog4j2.configurationFile=${SPARK_CONF_DIR}/log4j2.properties"
  SPARK_CONF_DIR="${SPARK_CONF_DIR}/none"
fi
unset venv  # everything set here is exported
