"""Files that ``make env`` copies into the Spark of ``.venv``: spark-env.sh and Java's class archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from cxrfeat.spark import java

CONF = Path(__file__).parents[2] / "spark_jobs" / "conf"
PRINT = 'echo "$SPARK_CONF_DIR"; echo "$SPARK_SUBMIT_OPTS"; echo "$PYSPARK_PYTHON"; echo "${venv-}"'


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return the conf of a Spark in a virtual environment, laid out as pip does."""
    folder = tmp_path / "lib" / "python3" / "site-packages" / "pyspark" / "conf"
    shutil.copytree(CONF, folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return folder


def source(conf: Path, **environment: str) -> list[str]:
    """Return SPARK_CONF_DIR, the JVM's options and the interpreter that spark-env.sh sets, and nothing else."""
    settings = {"SPARK_HOME": str(conf.parent), "SPARK_CONF_DIR": str(conf), **environment}
    script = f'set -a; . "{conf}/spark-env.sh"; {PRINT}'
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK", "PYSPARK"))}
    done = subprocess.run(["bash", "-c", script], env={**clean, **settings}, check=True, capture_output=True, text=True)
    *lines, venv = done.stdout.splitlines()
    assert venv == ""
    return lines


def test_without_an_archive_conf_stays_where_it_is(conf: Path, tmp_path: Path) -> None:
    """The JVM's options are ours, and the interpreter is that of the environment."""
    folder, options, python = source(conf)
    assert folder == str(conf)
    assert options.startswith("-XX:+UseSerialGC ") and "SharedArchiveFile" not in options
    assert Path(python).resolve() == Path(sys.executable).resolve()


def test_an_archive_is_taken_and_conf_leaves_the_class_path(conf: Path, tmp_path: Path) -> None:
    """Java takes none while a folder with files is on the class path; the log's settings are named instead."""
    (tmp_path / "classes.jsa").touch()
    folder, options, _ = source(conf)
    assert not Path(folder).exists()
    words = dict(word.split("=", 1) for word in options.split() if "=" in word)
    assert Path(words["-XX:SharedArchiveFile"]).samefile(tmp_path / "classes.jsa")
    assert Path(words["-Dlog4j2.configurationFile"]).samefile(conf / "log4j2.properties")


def test_defaults_of_the_users_own_are_read(conf: Path, tmp_path: Path) -> None:
    """Spark reads spark-defaults.conf only in conf: if it exists, conf stays and the archive is not used."""
    (tmp_path / "classes.jsa").touch()
    (conf / "spark-defaults.conf").write_text("spark.driver.memory 2g\n")
    folder, options, _ = source(conf)
    assert folder == str(conf)
    assert "SharedArchiveFile" not in options


def test_options_of_the_users_own_stand_in_for_ours(conf: Path) -> None:
    """Two garbage collectors would be one too many."""
    assert source(conf, SPARK_SUBMIT_OPTS="-XX:+UseG1GC", PYSPARK_PYTHON=sys.executable)[1:] == [
        "-XX:+UseG1GC",
        sys.executable,
    ]


def test_a_missing_java_is_one_line(conf: Path) -> None:
    """And the command ends there."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        source(conf, JAVA_HOME="/nowhere")
    assert failed.value.stderr.startswith(
        f"Spark needs Java {java.MINIMUM} or newer: JAVA_HOME=/nowhere has no bin/java"
    )
    assert failed.value.stderr.count("\n") == 1


@pytest.mark.spark
def test_the_jvm_takes_spark_out_of_the_archive(tmp_path: Path) -> None:
    """In the environment that these tests run in: Java refuses an archive whole, or not at all."""
    if not (Path(sys.prefix) / "classes.jsa").exists():
        pytest.skip("no classes.jsa in this environment: `make env` writes it")
    log = tmp_path / "classes.txt"
    environment = {**os.environ, "SPARK_SUBMIT_OPTS": f"-XX:+UseSerialGC -Xlog:class+load:file={log}"}
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    subprocess.run([submit, "--version"], env=environment, check=True, capture_output=True)
    archived = [line for line in log.read_text().splitlines() if line.endswith("shared objects file (top)")]
    assert any(" org.apache.spark." in line for line in archived)


@pytest.mark.parametrize(
    ("given", "locale"),
    [({"LC_ALL": "C"}, "C.UTF-8"), ({"LANG": "POSIX"}, "C.UTF-8"), ({}, "C.UTF-8"), ({"LANG": "de_DE.utf8"}, "")],
)
def test_java_gets_a_locale_that_holds_every_name(conf: Path, given: dict[str, str], locale: str) -> None:
    """A locale in another encoding, or none, is replaced; one in UTF-8 stays."""
    names = ("LC_ALL", "LC_CTYPE", "LANG", "SPARK_SUBMIT_OPTS", "PYSPARK_PYTHON")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    environment = {**clean, "SPARK_HOME": str(conf.parent), "SPARK_CONF_DIR": str(conf), **given}
    script = f'set -a; . "{conf}/spark-env.sh"; echo "${{LC_ALL-}}"'
    done = subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == f"{locale}\n"
