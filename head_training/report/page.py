"""Building blocks of the page, and its rendering as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cxrfeat import __version__


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        title: short statement of what the figure shows.
        svg: inline SVG.
        caption: how to read the figure.
        dense: True if the figure scrolls sideways on a narrow page instead of shrinking.
    """

    kind: ClassVar[str] = "plot"
    title: str
    svg: Markup
    caption: str = ""
    dense: bool = False


@dataclass(frozen=True)
class Multiples:
    """Small multiples: named figures of one kind, side by side."""

    kind: ClassVar[str] = "multiples"
    title: str
    panels: Sequence[tuple[str, Markup]]
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
        title: short statement of the content.
        header: one name per column; the first column holds the row names.
        rows: texts of the cells.
        caption: how to read the table.
        wide: True if the table takes the full width of the page.
        emphasis: indices of highlighted rows, such as a mean.
    """

    kind: ClassVar[str] = "table"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    wide: bool = False
    emphasis: Sequence[int] = ()


@dataclass(frozen=True)
class ImageTile:
    """An example image with text below it.

    Attributes:
        title: label of which the image is an example.
        image: a data: URI, or None if no image has the label.
        lines: lines of text, each with a tone: plain, good or bad.
    """

    title: str
    image: str | None
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sheet:
    """Images side by side."""

    kind: ClassVar[str] = "sheet"
    title: str
    tiles: Sequence[ImageTile]
    caption: str = ""


Block = Plot | Multiples | Table | Sheet


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: heading, and entry in the table of contents.
        lead: paragraphs before the figures.
        facts: key numbers, each with a description.
        blocks: figures and tables.
    """

    name: str
    blocks: Sequence[Block]
    lead: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()

    @property
    def anchor(self) -> str:
        """Return the id of the section in the page."""
        return self.name.lower().replace(" ", "-")


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the page as one self-contained HTML file."""
    environment = Environment(
        loader=PackageLoader("head_training.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = files("head_training.report").joinpath("style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        style=Markup(style),  # noqa: S704 - a file of this package
        version=__version__,
    )
