"""Python environment like that of a cluster's workers: third-party packages without the project."""

from __future__ import annotations

import os
import sysconfig
import venv
from pathlib import Path


def make_python(folder: Path) -> Path:
    """Create a virtual environment that links to our packages except the project; return its interpreter."""
    venv.create(folder, symlinks=True)
    site = _site_packages(folder)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        # A .pth file, which editable installs use, would make the checkout importable.
        if not entry.name.startswith(("cxrfeat", "head_training")) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def spark_home(python: Path) -> Path:
    """Return the Spark folder of such an interpreter; its bin/ has spark-submit and spark-class."""
    return _site_packages(python.parents[1]) / "pyspark"


def environment(python: Path) -> dict[str, str]:
    """Return environment variables with which Spark's programs use such an interpreter and not ours.

    SPARK_CONF_DIR is an empty folder, because the configuration that "make env" installs needs the project.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK", "SPARK"))
    }
    conf = python.parents[1] / "conf"
    conf.mkdir(exist_ok=True)
    return {
        **inherited,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYSPARK_PYTHON": str(python),
        "SPARK_HOME": str(spark_home(python)),
        "SPARK_CONF_DIR": str(conf),
    }


def _site_packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
