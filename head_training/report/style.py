"""One visual language for every figure, and how a figure becomes inline SVG."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

BLUE, VERMILLION, ORANGE, SKY = "#0072B2", "#D55E00", "#E69F00", "#56B4E9"
"""Told apart with every kind of colour vision. Source: Okabe & Ito, Color Universal Design, 2008."""

INK, MUTED, CONTEXT, GRID = "#1b1f24", "#5b6570", "#c3c9d0", "#e8ebee"
"""Text; second text; what is there for comparison; lines to read values off."""

SEQUENTIAL = LinearSegmentedColormap.from_list("sequential", ["#f5f8fb", "#9ecae1", BLUE, "#08306b"]).with_extremes(
    bad="#dfe3e7"
)
DIVERGING = LinearSegmentedColormap.from_list("diverging", [VERMILLION, "#f7f7f7", BLUE]).with_extremes(bad="#dfe3e7")

_HALF = 5.2
"""Inches: half of a wide page, 500 CSS pixels; a narrow page shows it at 7/10, where 10.5 points are 10 pixels."""

_TILE = 2.3
"""Inches: a panel of small multiples."""

_TILE_AXES = (0.165, 0.135, 0.79, 0.79)
"""Left, bottom, width and height of a panel's axes: square, with room for short tick labels."""

_RC: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": CONTEXT,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    # Names of views or findings come from files: a dollar sign in them is a dollar sign.
    "text.parse_math": False,
    # Text stays text: it can be searched, copied and read aloud, and files are small. Matplotlib lays it out in DejaVu
    # Sans, which is wider than the fonts that style.css asks browsers for, so nothing collides.
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": CONTEXT,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.color": CONTEXT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 10.5,
    "ytick.major.size": 0,
}


def draw(plot: Callable[[Axes], None], label: str, *, height: float = 3.4) -> Markup:
    """Draw a figure of one pair of axes, half a wide page across, and return it as an inline ``<svg>``.

    The same plot gives the same bytes, and its ids are its own on the page as long as labels are.

    Args:
        plot: draws onto the axes.
        label: what a screen reader says.
        height: inches, of 96 CSS pixels.
    """
    return _draw(plot, label, (_HALF, height), lambda figure: figure.add_subplot(), layout="constrained")


def draw_panel(plot: Callable[[Axes], None], label: str) -> Markup:
    """Draw a panel of small multiples as :func:`draw` does; the axes of all panels are in the same place."""
    return _draw(plot, label, (_TILE, _TILE), lambda figure: figure.add_axes(_TILE_AXES), layout=None)


def _draw(
    plot: Callable[[Axes], None],
    label: str,
    size: tuple[float, float],
    add: Callable[[Figure], Axes],
    layout: Literal["constrained"] | None,
) -> Markup:
    salt = hashlib.sha256(label.encode()).hexdigest()[:16]
    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": salt}):
        figure = Figure(figsize=size, layout=layout)
        plot(add(figure))
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _to_inline(buffer.getvalue(), label, size[0])


def _to_inline(svg: str, label: str, width: float) -> Markup:
    """Cut a stand-alone SVG file down to what may stand in a page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # figure_1, axes_1, …: every figure has them, but ids must be unique on a page. Those that are referred to are salted.
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", body)
    view_box = re.search(r'viewBox="[^"]*"', body)
    if view_box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{escape(label)}" {view_box[0]} style="width:{width * 96:.0f}px">'
    )
    return Markup(opening + body[body.index(">") + 1 :])  # noqa: S704 - matplotlib escapes its texts


def count(number: float) -> str:
    """Write 112120 as 112,120, and what is not there as a dash."""
    return f"{number:,.0f}" if math.isfinite(number) else "–"


def percent(share: float | None, digits: int | None = None) -> str:
    """Write 0.538 as 53.8 % with a space that does not break, and what is not defined as a dash.

    Args:
        share: of 1.
        digits: after the point; by default one, or two for what is below 1 %.
    """
    if share is None or not math.isfinite(share):
        return "–"
    if digits is None:
        digits = 2 if 0 < share < 0.01 else 1
    return f"{share * 100:.{digits}f}\u00a0%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write 0.8417 as 0.842, and what is not defined as a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """Write 0.807 (0.801–0.813), without the bracket where there is no interval."""
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high):
        return decimal(value, digits)
    return f"{decimal(value, digits)} ({decimal(low, digits)}–{decimal(high, digits)})"


def general(value: float) -> str:
    """Write a setting without digits that say nothing: 0.0003, 1e-6."""
    return f"{value:g}".replace("e-0", "e-")


def spell(name: str) -> str:
    """Write a name from a file for readers: Pleural_Thickening with a blank."""
    return name.replace("_", " ")
