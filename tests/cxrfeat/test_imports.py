"""Who may import whom: the layers of docs/ARCHITECTURE.md, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LAYERS = (
    ("__init__", "errors", "exits", "findings", "schema", "splits", "inputs"),
    (
        "java",
        "storage",
        "bootstrap",
        "curves",
        "imaging",
        "preprocess",
        "vectors",
        "calibration",
        "device",
        "backbone",
        "fused",
        "resnet",
        "stem",
        "head",
        "bundle",
        "heatmap",
        "metadata",
        "metrics",
        "operating",
        "phantom",
    ),
    ("encoder",),
    ("embed", "predict"),
    ("score",),
    ("drops",),
    ("spark",),
    ("web",),
    ("demo",),
)
"""From the bottom up: a module imports from its own layer and from those before it, and never in a circle."""

LAYER = {module: index for index, layer in enumerate(LAYERS) for module in layer}


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


def module_of(root: Path, source: Path) -> str:
    """Return a file's module as LAYERS names it; a subpackage is one module."""
    return source.relative_to(root / "cxrfeat").with_suffix("").parts[0]


def test_importing_the_package_loads_neither_torch_nor_pyspark() -> None:
    """``import cxrfeat`` costs nothing, and the bottom layer needs neither torch nor pyspark."""
    modules = ", ".join(f"cxrfeat.{name}" for name in LAYERS[0] if name != "__init__")
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


def test_every_module_has_a_layer(root: Path) -> None:
    """A new module says where it belongs: add it to LAYERS."""
    assert {module_of(root, source) for source in sources(root, "cxrfeat")} <= set(LAYER)


def test_no_module_imports_one_above_it_and_none_in_a_circle(root: Path) -> None:
    """Imports point down: errors, findings, schema, splits ← imaging, preprocess, backbone ← encoder ← embed ← spark."""
    graph: dict[str, set[str]] = {}
    for source in sources(root, "cxrfeat"):
        importer = module_of(root, source)
        below = {name.split(".")[1] for name in imports(source) if name.startswith("cxrfeat.")} & set(LAYER)
        graph.setdefault(importer, set()).update(below - {importer})
    upward = {
        f"{module} → {other}" for module, below in graph.items() for other in below if LAYER[other] > LAYER[module]
    }
    assert upward == set()
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize(
    ("folder", "known"), [("phantom", {"errors", "exits", "findings"}), ("spark", None), ("web", None)]
)
def test_neighbours_do_not_know_each_other(folder: str, known: set[str] | None, root: Path) -> None:
    """``spark`` and ``web`` stand side by side, and phantoms stand alone."""
    found = {
        name.split(".")[1]
        for source in sources(root, f"cxrfeat/{folder}")
        for name in imports(source)
        if name.startswith("cxrfeat.") and name.split(".")[1] in LAYER
    } - {folder}
    assert found
    assert found <= (known or set(LAYER) - {"spark", "web", "demo"})


def test_the_architecture_says_the_same(root: Path) -> None:
    """The chain in the document is the table above."""
    text = (root / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Who may import whom")[1]
    chain = text.strip().split("\n\n")[0].split("` ← `")
    layers = [set(names.strip("`").split("`")[0].split(", ")) for names in chain]
    assert layers[:-1] == [set(layer) - {"__init__"} for layer in LAYERS[: len(layers) - 1]]
    assert layers[-1] == {"spark_jobs"}
