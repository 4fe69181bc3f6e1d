"""Who may import whom: the layers of docs/ARCHITECTURE.md, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LAYERS = {
    "cxrfeat": (
        ("__init__", "errors"),
        ("exits", "device"),
        ("io",),
        ("labels",),
        ("images", "head", "phantom"),
        ("backbones",),
        ("pipeline",),
        ("spark", "web"),
        ("cli", "demo"),
    ),
    "head_training": (
        ("__init__", "features"),
        ("evaluation",),
        ("training",),
        ("report",),
        ("fit", "evaluate"),
    ),
}
"""Rooms of each package from the bottom up. A room imports from lower layers only, never from its neighbours."""

WITHOUT_TORCH = ("errors", "exits", "io.storage", "io.schema", "labels.findings", "labels.splits", "cli.main")


@pytest.fixture(scope="module")
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


def sources(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


def imports(source: Path) -> Iterator[str]:
    """Yield the full dotted name of everything that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno} is relative; this project writes whole names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(root: Path, folder: str, package: str) -> set[str]:
    """Return the files of a folder that import a package, as paths below the root."""
    return {
        source.relative_to(root).as_posix()
        for source in sources(root, folder)
        if any(name.split(".")[0] == package for name in imports(source))
    }


def room_of(package: Path, source: Path) -> str:
    """Return the room of a file: its folder below the package, or its own name at the top of the package."""
    return source.relative_to(package).with_suffix("").parts[0]


def layers_of(package: str) -> dict[str, int]:
    """Return the layer of each room, 0 at the bottom."""
    return {room: index for index, layer in enumerate(LAYERS[package]) for room in layer}


def room_imports(root: Path, package: str) -> dict[str, set[str]]:
    """Return for each room the other rooms of its package that it imports."""
    graph: dict[str, set[str]] = {room: set() for room in layers_of(package)}
    for source in sources(root, package):
        room = room_of(root / package, source)
        if source == root / package / "__init__.py":
            continue  # the front door names the public classes for type checkers and imports them on first use
        below = {name.split(".")[1] for name in imports(source) if name.startswith(f"{package}.")}
        graph[room] |= (below & set(graph)) - {room}
    return graph


def test_importing_the_package_loads_neither_torch_nor_pyspark() -> None:
    """``import cxrfeat`` costs nothing; neither do the modules that need no network and no cluster."""
    modules = ", ".join(f"cxrfeat.{name}" for name in WITHOUT_TORCH)
    code = f"import cxrfeat, {modules}, sys; print(sorted({{'torch', 'torchvision', 'pyspark'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_only_the_spark_folder_imports_pyspark(root: Path) -> None:
    """Everything but cxrfeat/spark runs and is tested without a JVM."""
    found = importers(root, "cxrfeat", "pyspark")
    assert {path for path in found if not path.startswith("cxrfeat/spark/")} == set()
    assert found, "nothing imports pyspark: this test looks in the wrong place"


def test_only_the_web_folder_imports_fastapi(root: Path) -> None:
    """The library and its jobs run where the `web` extra is not installed."""
    for package in ("fastapi", "starlette", "uvicorn", "pydantic"):
        found = importers(root, "cxrfeat", package) | importers(root, "head_training", package)
        assert found
        assert {path for path in found if not path.startswith("cxrfeat/web/")} == set()


def test_training_never_imports_spark(root: Path) -> None:
    """A head is trained where there is no Spark: neither pyspark nor our Spark folder is imported."""
    assert importers(root, "head_training", "pyspark") == set()
    names = {name for source in sources(root, "head_training") for name in imports(source)}
    assert {name for name in names if name.startswith("cxrfeat.spark")} == set()


def test_the_library_imports_no_program(root: Path) -> None:
    """The library knows neither the jobs nor the training that use it, nor tests and benchmarks."""
    for package in ("spark_jobs", "head_training", "benchmarks", "tests"):
        assert importers(root, "cxrfeat", package) == set()


@pytest.mark.parametrize("package", LAYERS)
def test_every_room_has_a_layer(root: Path, package: str) -> None:
    """A new room says where it belongs: add it to LAYERS."""
    assert {room_of(root / package, source) for source in sources(root, package)} == set(layers_of(package))


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_downwards(root: Path, package: str) -> None:
    """No room imports a neighbour or a room above it, so no two rooms import each other."""
    layer = layers_of(package)
    upward = {
        f"{room} → {other}"
        for room, below in room_imports(root, package).items()
        for other in below
        if layer[other] >= layer[room]
    }
    assert upward == set()


def test_no_modules_import_each_other(root: Path) -> None:
    """Modules form no circle either, inside a room or across rooms."""
    files = {
        ".".join(source.relative_to(root).with_suffix("").parts): source
        for package in LAYERS
        for source in sources(root, package)
    }
    graph = {
        module: {found for name in imports(source) for found in (name, name.rpartition(".")[0]) if found in files}
        for module, source in files.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(files)


def test_phantoms_stand_alone(root: Path) -> None:
    """Phantoms need no other room than the labels."""
    assert room_imports(root, "cxrfeat")["phantom"] == {"errors", "exits", "labels"}


def test_the_architecture_says_the_same(root: Path) -> None:
    """The chains in the document are the tables above."""
    text = (root / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Who may import whom")[1]
    chains = [line for line in text.split("\n##")[0].splitlines() if " ← " in line]
    assert [[set(names.strip("` ").split(", ")) for names in chain.split(" ← ")] for chain in chains] == [
        [set(layer) - {"__init__"} for layer in layers] for layers in LAYERS.values()
    ]
