"""docs/DEPENDENCIES.md lists exactly the dependencies of pyproject.toml, in the matching sections."""

from __future__ import annotations

import re
import tomllib

import pytest

HEADINGS = {
    "": "At run time",
    "web": "For the page",
    "dicom": "For DICOM",
    "timm": "For networks of timm",
    "xrv": "For networks of torchxrayvision",
    "openvino": "For the engine of OpenVINO",
    "quantize": "To quantise networks",
    "bench": "To measure against",
    "dev": "To develop",
}


@pytest.mark.parametrize("extra", HEADINGS)
def test_every_dependency_says_why_it_is_there(pytestconfig: pytest.Config, extra: str) -> None:
    """A package that is added or removed must be added or removed on the page too."""
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["optional-dependencies"][extra] if extra else project["dependencies"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements} - {"cxrfeat"}  # type: ignore[index]
    page = (pytestconfig.rootpath / "docs" / "DEPENDENCIES.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {HEADINGS[extra]}.*?(?=^## )", page, flags=re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| ([\w, -]+) \|", section, flags=re.MULTILINE)
    assert {name for row in rows for name in row.split(", ")} - {"package"} == names
