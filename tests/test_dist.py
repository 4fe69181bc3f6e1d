"""The wheel and the zip of "make dist" each suffice for a cluster with the third-party packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from cxrfeat import __version__
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights, fingerprint
from cxrfeat.head.bundle import load_bundle, save_bundle
from cxrfeat.phantom.archive import write_archive
from tests import fakes, third_party

PACKAGES = ("cxrfeat", "head_training")


def make_dist(root: Path, folder: Path) -> tuple[Path, Path]:
    """Run the recipe of "make dist" with the programs of the environment that runs us; return wheel and zip."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "--silent", "--old-file=env", "dist", f"DIST={folder}"]
    subprocess.run(command, cwd=root, env=environment, check=True)
    name = f"cxrfeat-{__version__}"
    return folder / f"{name}-py3-none-any.whl", folder / f"{name}.zip"


@pytest.fixture(scope="module")
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


@pytest.fixture(scope="module")
def dist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_dist(root, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return third_party.make_python(tmp_path_factory.mktemp("third-party"))


def run(python: Path, *command: str, cwd: Path, **variables: str) -> str:
    """Run a program without access to the checkout, expect success, and return its output."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**third_party.environment(python), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_the_zip_is_the_wheel_and_holds_both_packages_whole(
    root: Path, dist: tuple[Path, Path], tmp_path: Path
) -> None:
    """Made twice, the files are the same bytes; every module, template, script and style of the tree is in them."""
    wheel, shipped = dist
    again = make_dist(root, tmp_path / "again")
    assert {path.read_bytes() for path in (wheel, shipped, *again)} == {wheel.read_bytes()}
    tree = {
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in zipfile.ZipFile(shipped).namelist() if name.split("/")[0] in PACKAGES}
    assert packed == tree
    assert {Path(name).suffix for name in packed} >= {".py", ".js", ".css", ".j2"}


@pytest.mark.slow
def test_the_interpreter_of_these_tests_has_nothing_of_the_project(python: Path, tmp_path: Path) -> None:
    """Third-party packages are there; the project is neither importable nor known as installed."""
    code = (
        "import torch, pyspark; from importlib import metadata, util;"
        "print(util.find_spec('cxrfeat'), util.find_spec('head_training'), util.find_spec('tests'));"
        "print('cxrfeat' in {found.name for found in metadata.distributions()})"
    )
    assert run(python, str(python), "-c", code, cwd=tmp_path).split() == ["None", "None", "None", "False"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "wheel"])
def test_programs_run_from_zip_and_wheel(dist: tuple[Path, Path], python: Path, tmp_path: Path, kind: str) -> None:
    """A report, which needs its template and style, is made by code inside the zip, and by the installed wheel."""
    wheel, shipped = dist
    code = shipped
    if kind == "wheel":
        code = tmp_path / "installed"
        options = ("--quiet", "--no-index", "--no-deps", "--target", str(code))
        subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    write_archive(tmp_path / "phantoms", 3, size=64)
    command = [str(python), "-m", "head_training.report", "--metadata", "phantoms/Data_Entry_2017_v2020.csv"]
    run(python, *command, "--output", "report", cwd=tmp_path, PYTHONPATH=str(code))
    style = (zipfile.Path(shipped) / "head_training" / "report" / "style.css").read_text()
    assert style.strip() in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.spark
def test_a_job_runs_with_the_zip_alone(root: Path, dist: tuple[Path, Path], python: Path, tmp_path: Path) -> None:
    """Images are embedded and scored in an executor process that gets its code from --py-files alone."""
    write_archive(tmp_path / "phantoms", 3, size=64)
    backbone = get_backbone("resnet18")
    extractor = fingerprint(backbone, find_weights(backbone, RANDOM))
    save_bundle(fakes.bundle(512, extractor=extractor), tmp_path / "head")
    shutil.copy(root / "spark_jobs" / "score.py", tmp_path)  # the driver sees the folder of its main file
    (tmp_path / "events").mkdir()
    settings = {
        "spark.driver.host": "localhost",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": str(tmp_path / "events"),
    }
    conf = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
    spark = ("--master", "local-cluster[1,1,1024]", *conf)
    submit = (str(third_party.spark_home(python) / "bin" / "spark-submit"), *spark, "--py-files", str(dist[1]))
    options = ("--images", "phantoms", "--weights", RANDOM, "--head", "head", "--output", "scored")
    run(python, *submit, "score.py", *options, cwd=tmp_path)
    scored = pads.dataset(str(tmp_path / "scored" / "predictions"), partitioning="hive").to_table()
    assert scored["status"].to_pylist() == ["ok"] * 3
    assert scored["extractor"].to_pylist() == [extractor] * 3
    lines = [line for log in (tmp_path / "events").rglob("events_*") for line in log.read_text().splitlines()]
    ended = [event for event in map(json.loads, lines) if event["Event"] == "SparkListenerTaskEnd"]
    assert {event["Task Info"]["Executor ID"] for event in ended} == {"0"}  # in local mode it would be the driver


@pytest.mark.slow
@pytest.mark.spark
def test_the_installed_command_runs_every_step(dist: tuple[Path, Path], tmp_path: Path) -> None:
    """With only the wheel installed, and no access to the checkout, the demo draws, embeds, trains and scores."""
    python = third_party.make_python(tmp_path / "environment")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, str(dist[0])], check=True)
    environment = {name: value for name, value in third_party.environment(python).items() if name != "PYSPARK_PYTHON"}
    command = python.with_name("cxrfeat")

    folder = tmp_path / "empty"
    folder.mkdir()

    def cxrfeat(*words: str) -> str:
        result = subprocess.run(
            [command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert not re.search(r"\[Stage|\bWARN\b|\bINFO\b", result.stderr)  # Spark is quiet
        return result.stdout

    assert f"cxrfeat {__version__}" in cxrfeat("--version")
    assert "commands:" in cxrfeat("--help")
    assert re.search(r"^ok +Java ", cxrfeat("doctor"), flags=re.MULTILINE)
    printed = cxrfeat("demo", "--count", "24", "--weights", RANDOM)
    assert "$ cxrfeat extract --images" in printed
    assert "24 listed = 24 ok + 0 quarantined" in printed
    assert f"24 rows x 2048 dimensions, extractor resnet50:{RANDOM}-seed0:" in printed
    assert "$ cxrfeat fit --features" in printed
    assert "12 listed = 12 scored + 0 quarantined" in printed  # monday
    assert "24 listed = 24 scored + 0 quarantined" in printed  # and tuesday
    scored = pads.dataset(str(folder / "demo" / "predictions" / "predictions"), partitioning="hive").to_table()
    assert set(zip(scored["drop_file"].to_pylist(), scored["round"].to_pylist(), strict=True)) == {
        ("monday.parquet", 0),
        ("tuesday.parquet", 1),
    }
    assert load_bundle(folder / "demo" / "run" / "head").extractor.startswith(f"resnet50:{RANDOM}-seed0:")
