"""Links and examples in the documents work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxrfeat.labels.columns import load_column_map
from cxrfeat.labels.label_sets import load_label_set
from cxrfeat.labels.metadata import read_metadata

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docker/README.md",
    "docs/ARCHITECTURE.md",
    "docs/ARCHIVES.md",
    "docs/BACKBONES.md",
    "docs/DEPENDENCIES.md",
    "docs/DICOM.md",
    "docs/IMAGES.md",
    "docs/LABELS.md",
    "docs/S3.md",
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def readme(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(pytestconfig: pytest.Config, name: str) -> None:
    """Links point to existing files and to existing headings."""
    page = pytestconfig.rootpath / name
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_the_example_of_metadata_can_be_used(readme: str, tmp_path: Path) -> None:
    """Three lines, three images, nothing rejected; an empty label is no label."""
    (example,) = [block for block in blocks(readme, "") if block.startswith("Image Index")]
    (tmp_path / "labels.csv").write_text(example, encoding="utf-8")
    metadata = read_metadata([str(tmp_path / "labels.csv")])
    assert len(metadata.rejected()) == 0
    assert metadata.lines["findings"].to_pylist() == [["Mass", "Pleural_Thickening"], [], None]


def test_the_examples_of_column_map_and_label_set_can_be_used(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The TOML files of docs/LABELS.md load, with the options that are commented out too."""
    column_map, label_set = blocks((pytestconfig.rootpath / "docs" / "LABELS.md").read_text(encoding="utf-8"), "toml")
    (tmp_path / "map.toml").write_text(column_map, encoding="utf-8")
    (tmp_path / "set.toml").write_text(label_set, encoding="utf-8")
    assert load_column_map(str(tmp_path / "map.toml")).labels.separator == ";"
    assert load_label_set(str(tmp_path / "set.toml")).outputs == ("Opacity", "Cardiomegaly")
    flags = column_map.replace('column = "Diagnoses"', "").replace("# flags", "flags").replace("# merge", "merge")
    (tmp_path / "map.toml").write_text(flags, encoding="utf-8")
    assert set(load_column_map(str(tmp_path / "map.toml")).labels.flags) == {"Mass", "Nodule"}


def test_python_examples_are_python(readme: str) -> None:
    """Each example compiles."""
    examples = blocks(readme, "python")
    assert len(examples) == 3
    for example in examples:
        compile(example, "README.md", "exec")
