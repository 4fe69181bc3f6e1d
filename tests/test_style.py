"""Prose of the code is plain English: none of the turns of phrase that made it hard to read comes back."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

UNITS = (
    "batch|bin|cell|column|commit|configuration|core|cut|day|epoch|film|file|finding|fold|group|head|image|kernel|key|"
    "label|layer|line|"
    "list|machine|member|name|number|page|patient|picture|point|process|reason|repeat|request|round|row|run|second|side|split|"
    "stage|step|study|table|task|thread|unit|value|view|visitor|worker|year"
)

PATTERNS = {
    "one row a configuration → one row per configuration": (
        rf"\b(?:one|once|two|three|four|five|\d+|N)\b(?: [\w-]+){{0,2}} an? (?:{UNITS})\b"
        r"(?! (?:of|that|is|has|in|with)\b)"
        rf"|\b(?:images|films|rows|files|bytes|pixels|names|epochs|times) an? (?:{UNITS})\b"
    ),
    "that can't be carried out → an invalid option": r"\bcarried out\b",
    "can't be had → unavailable": r"\bbe had\b",
    "can't be read → cannot read": r"\bcan't\b",
    "who answers → the service": r"\b(?:who answers|whoever|nobody|somebody|anybody)\b",
    "say whether → return True if": r"\b[Ss]ay (?:whether|how|what|if|so|which|why)\b",
    "there is a file → the file exists": (
        r"\bwhether there (?:is|are)\b|\bwhere there (?:is|are)\b|\bthere is a file\b|\bwhich there are\b"
    ),
    "what came of a run → results": r"\bwhat (?:came|comes|became|becomes) of\b|\bwhat there is\b",
    "the disk refuses → the write fails": r"\b(?:disk|S3|Spark|Java|it) refuses\b|\bthe head says\b|\bsays of it\b",
    "mends → fixes": r"\b(?:mend|mends|mended|mending)\b",
    "in the mean → on average": r"\bin the mean\b|\bin sum\b|\bweigh the same\b",
    "is no bundle → is not a bundle": (
        r"\bis no (?:bundle|file|folder|number|matrix|list|table|image|Parquet|probability)\b|\bare none\b"
    ),
    "coined nouns": r"\b(?:forgiven|judged|verbs|acquit)\b",
    "film → image": r"\bfilms?\b",
}
"""What to write instead → the pattern that is not to be written."""

ALLOWED = {
    "cxrfeat/web/schemas.py": {"film"},  # a field of the service's JSON
    "cxrfeat/web/service.py": {"film"},
}
"""Words that formats fix, by file."""

PROSE_FILES = (
    "Makefile",
    "docker/Dockerfile",
    "docker/compose.yaml",
    "docker/discover-gpus.sh",
    "docker/entrypoint.sh",
)

NOT_A_SENTENCE = re.compile(r"(?:Of|Where|Who|What|How|Which|Whether|That|From|Whose|Why|As|On|In|At|For|By)\b")


def sources(root: Path) -> list[Path]:
    return [
        path
        for package in ("cxrfeat", "head_training", "spark_jobs", "benchmarks")
        for path in sorted((root / package).rglob("*.py"))
    ]


def prose(source: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of every comment and every text literal of a file."""
    for token in tokenize.generate_tokens(io.StringIO(source.read_text(encoding="utf-8")).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


@pytest.fixture(scope="module")
def lines(pytestconfig: pytest.Config) -> list[tuple[str, int, str]]:
    """Return file, line number and text of all prose."""
    root = pytestconfig.rootpath
    found = [(path.relative_to(root).as_posix(), *line) for path in sources(root) for line in prose(path)]
    for name in PROSE_FILES:
        texts = (root / name).read_text(encoding="utf-8").splitlines()
        found += [(name, number, text) for number, text in enumerate(texts, start=1)]
    assert len(found) > 3000, "this test looks in the wrong place"
    return found


@pytest.mark.parametrize("instead", PATTERNS)
def test_a_turn_of_phrase_does_not_come_back(lines: list[tuple[str, int, str]], instead: str) -> None:
    """Neither in docstrings nor in comments, help texts, messages and build files."""
    pattern, found = re.compile(PATTERNS[instead]), []
    for name, number, text in lines:
        if {match[0] for match in pattern.finditer(text)} - ALLOWED.get(name, set()):
            found.append(f"{name}:{number}: {text.strip()}")
    assert found == []


def test_docstrings_begin_with_a_sentence(pytestconfig: pytest.Config) -> None:
    """The first line of a docstring is an imperative sentence or names the thing: never a fragment."""
    found = []
    for source in sources(pytestconfig.rootpath):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                if NOT_A_SENTENCE.match(first):
                    found.append(f"{source}: {first}")
    assert found == []
