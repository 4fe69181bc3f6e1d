"""The console command dispatches to its subcommands, stays fast without them, and names a missing extra."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from cxrfeat import __version__
from cxrfeat.cli.main import COMMANDS, main

HELP = """\
import sys
from cxrfeat.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("loaded:", *sorted({"torch", "pyspark", "numpy", "pyarrow"} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its module can be imported, its main accepts ``prog``, and its help is shown under the command's name."""
    module = importlib.import_module(COMMANDS[name].module)
    assert inspect.signature(module.main).parameters["prog"].kind == inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(SystemExit, match=r"^0$"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: cxrfeat {name}")


def test_help_lists_every_command_and_loads_nothing() -> None:
    """``cxrfeat --help`` prints one line per command and imports neither torch nor pyspark."""
    printed = subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True, text=True).stdout
    listed = printed.partition("commands:\n")[2].splitlines()
    assert [tuple(line.split(maxsplit=1)) for line in listed[: len(COMMANDS)]] == [
        (name, command.summary) for name, command in COMMANDS.items()
    ]
    assert printed.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("words", [["train"], [], ["ext"], ["--unknown"], ["--unknown", "extract"]])
def test_an_unknown_command_is_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with the usage line; abbreviations are not accepted."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(words)
    assert capsys.readouterr().err.startswith("usage: cxrfeat COMMAND [options]\n")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """``cxrfeat --version`` prints name and version."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"cxrfeat {__version__}\n"


def test_arguments_and_exit_code_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subcommand gets all arguments after its name, also those of the process, and its exit code is returned."""
    calls: list[tuple[list[str], str]] = []

    class Module:
        """A subcommand."""

        @staticmethod
        def main(argv: list[str], *, prog: str) -> int:
            calls.append((argv, prog))
            return 3

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", lambda _: Module)
        patch.setattr(sys, "argv", ["cxrfeat", "score", "--help"])
        assert (main(["fit", "--run", "out"]), main()) == (3, 3)
    assert calls == [(["--run", "out"], "cxrfeat fit"), (["--help"], "cxrfeat score")]


def without(monkeypatch: pytest.MonkeyPatch, command: str, module: str) -> int:
    """Run a command in an environment that lacks a module."""

    def fail(_: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", fail)
        return main([command])


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without uvicorn the web page ends with exit code 2 and the command that installs the extra."""
    assert without(monkeypatch, "serve", "uvicorn") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: cxrfeat serve needs the package 'uvicorn': pip install 'cxrfeat[web]'\n"


@pytest.mark.parametrize(
    ("command", "module"),
    [("serve", "cxrfeat.web.app"), ("serve", "cxrfeat"), ("serve", "head_training.fit"), ("extract", "pyspark.sql")],
)
def test_other_missing_modules_are_raised(monkeypatch: pytest.MonkeyPatch, command: str, module: str) -> None:
    """A missing module of the project, or of a command without an extra, is a bug and is not hidden."""
    with pytest.raises(ModuleNotFoundError, match=module):
        without(monkeypatch, command, module)
