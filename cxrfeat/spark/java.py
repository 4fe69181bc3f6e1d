"""Find the Java that Spark will run on, or explain in one line how to install it.

``python -m cxrfeat.spark.java`` prints the version and exits with 0, or prints the fix and exits with 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cxrfeat.errors import JavaError

MINIMUM = 17

_FIXES = (
    "Debian/Ubuntu: sudo apt-get install -y openjdk-17-jre-headless   "
    "macOS: brew install openjdk@17   conda: conda install -c conda-forge openjdk=17"
)


def find_java() -> int:
    """Return the major version of the Java that Spark will start: the one in ``JAVA_HOME``, else on ``PATH``.

    Raises:
        JavaError: Java is missing, does not run, or is older than 17; the message contains the fix.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).is_file():
        cause = f"JAVA_HOME={home} has no bin/java" if home else "JAVA_HOME is not set and PATH has no java"
        raise JavaError(f"Spark needs Java {MINIMUM} or newer: {cause}.  {_FIXES}")
    # Java prints its version on stderr: 'openjdk version "17.0.15"', before Java 9 'java version "1.8.0_402"'.
    try:
        completed = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise JavaError(f"Spark needs Java {MINIMUM} or newer: {java} does not run ({error}).  {_FIXES}") from error
    version = re.search(r'version "(?:1\.)?(\d+)', completed.stderr)
    if completed.returncode != 0 or version is None:
        stderr = completed.stderr.strip()
        raise JavaError(f"Spark needs Java {MINIMUM} or newer: {java} does not run ({stderr}).  {_FIXES}")
    if int(version[1]) < MINIMUM:
        raise JavaError(f"Spark needs Java {MINIMUM} or newer: {java} is Java {version[1]}.  {_FIXES}")
    return int(version[1])


def main() -> int:
    """Print the Java version or the error, and return the exit code."""
    try:
        print(f"Java {find_java()}")  # noqa: T201
    except JavaError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
