"""Common style of all figures, their export as inline SVG, and number formatting."""

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
"""Colours that every type of colour vision distinguishes. Source: Okabe & Ito, Color Universal Design, 2008."""

INK, MUTED, CONTEXT, GRID = "#1b1f24", "#5b6570", "#c3c9d0", "#e8ebee"
"""Colours of text, secondary text, reference data, and grid lines."""

SEQUENTIAL = LinearSegmentedColormap.from_list("sequential", ["#f5f8fb", "#9ecae1", BLUE, "#08306b"]).with_extremes(
    bad="#dfe3e7"
)
DIVERGING = LinearSegmentedColormap.from_list("diverging", [VERMILLION, "#f7f7f7", BLUE]).with_extremes(bad="#dfe3e7")

_WIDTH = 5.2
"""Plot width in inches: half a wide page, 500 CSS pixels; a narrow page scales 10.5 points to 10 pixels (7/10)."""

_PANEL = 2.3
"""Side length in inches of a panel of small multiples."""

_PANEL_AXES = (0.165, 0.135, 0.79, 0.79)
"""Left, bottom, width and height of a panel's axes, which are square and leave room for short tick labels."""

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
    # Names of views and findings come from files, so dollar signs in them do not start mathematics.
    "text.parse_math": False,
    # Keep text as text, so that it can be searched, copied and read aloud, and files stay small. Matplotlib's layout
    # uses DejaVu Sans, which is wider than the fonts in style.css, so labels do not overlap in the browser.
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
    """Draw a figure with one set of axes, half a page wide, and return it as an inline ``<svg>``.

    The output is deterministic. Its ids are unique on the page if labels are.

    Args:
        plot: function that draws onto the axes.
        label: text for screen readers.
        height: in inches of 96 CSS pixels.
    """
    return _draw(plot, label, (_WIDTH, height), lambda figure: figure.add_subplot(), layout="constrained")


def draw_panel(plot: Callable[[Axes], None], label: str) -> Markup:
    """Draw a panel of small multiples, like :func:`draw`, with the axes of all panels in the same position."""
    return _draw(plot, label, (_PANEL, _PANEL), lambda figure: figure.add_axes(_PANEL_AXES), layout=None)


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
    """Return the parts of a stand-alone SVG file that belong in an HTML page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Drop ids such as figure_1, which every figure has. Ids that are referred to are unique on the page by their salt.
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


def height_of(rows: int) -> float:
    """Return the height in inches of a figure with one row of text per label."""
    return 0.94 + 0.24 * max(rows, 3)


def count(number: float) -> str:
    """Format 112120 as 112,120, and NaN as a dash."""
    return f"{number:,.0f}" if math.isfinite(number) else "–"


def percent(share: float | None, digits: int | None = None) -> str:
    """Format 0.538 as 53.8 % with a non-breaking space, and None and NaN as a dash.

    Args:
        share: fraction of 1.
        digits: decimals; by default one, or two below 1 %.
    """
    if share is None or not math.isfinite(share):
        return "–"
    if digits is None:
        digits = 2 if 0 < share < 0.01 else 1
    return f"{share * 100:.{digits}f}\u00a0%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Format 0.8417 as 0.842, and None and NaN as a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """Format a value with its interval as 0.807 (0.801–0.813), or the value alone if the interval is undefined."""
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high):
        return decimal(value, digits)
    return f"{decimal(value, digits)} ({decimal(low, digits)}–{decimal(high, digits)})"


def compact(value: float) -> str:
    """Format a setting without trailing zeros: 0.0003, 1e-6."""
    return f"{value:g}".replace("e-0", "e-")


def spell(name: str) -> str:
    """Return a name with spaces instead of underscores: Pleural Thickening."""
    return name.replace("_", " ")
