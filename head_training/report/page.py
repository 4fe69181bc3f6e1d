"""What a page consists of, and how it becomes one HTML file."""

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
        title: what it shows, as a sentence.
        svg: inline.
        caption: how to read it.
        dense: on a narrow page it scrolls sideways instead of shrinking.
    """

    kind: ClassVar[str] = "plot"
    title: str
    svg: Markup
    caption: str = ""
    dense: bool = False


@dataclass(frozen=True)
class Multiples:
    """Small figures of one kind side by side, each with its name."""

    kind: ClassVar[str] = "multiples"
    title: str
    panels: Sequence[tuple[str, Markup]]
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers.

    Attributes:
        title: what they are.
        header: one name a column; the first column names the rows.
        rows: texts.
        caption: how to read them.
        wide: takes the whole width of the page.
        emphasis: places of rows that stand out, such as a mean.
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
    """One film with what is said about it.

    Attributes:
        title: what it is an example of.
        image: a data: URI, or None where there is no such film.
        lines: text below it, each with a tone: plain, good or bad.
    """

    title: str
    image: str | None
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sheet:
    """Films side by side."""

    kind: ClassVar[str] = "sheet"
    title: str
    films: Sequence[ImageTile]
    caption: str = ""


Block = Plot | Multiples | Table | Sheet


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: what the contents say.
        lead: paragraphs before the figures.
        facts: numbers to see first, each with what it counts.
        blocks: figures and tables.
    """

    name: str
    blocks: Sequence[Block]
    lead: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()

    @property
    def anchor(self) -> str:
        """Of the section in the page."""
        return self.name.lower().replace(" ", "-")


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the page: one HTML file that refers to nothing outside itself."""
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
        style=Markup(style),  # noqa: S704 - our own file
        version=__version__,
    )
