"""Parser for report pages, and a headless browser to open them."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_VOID = {"meta", "link", "img", "br", "use", "path", "rect", "circle", "line"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        titles: titles of the figures, in order.
        sections: names of the sections.
        ids: ids of all elements.
        references: addresses in attributes, and url(#…) in styles.
        tags: number of elements by tag.
        text: all text.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.sections: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: dict[str, int] = {}
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], f"tags that are never closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "srcset", "action"):
                self.references.append(value or "")
            elif name in ("style", "clip-path", "fill"):
                self.references += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "h3":
            self.titles.append(data)
        elif inside == "h2":
            self.sections.append(data)
        if inside != "style":
            self.text += data + "\n"


def browse(path: Path) -> tuple[str, str]:
    """Open a page in a headless browser and return the loaded document and the console messages."""
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [BROWSER, *options, profile, path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
