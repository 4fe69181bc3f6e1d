"""The page: one self-contained file, whatever its texts."""

from __future__ import annotations

from matplotlib.axes import Axes

from head_training.report import style
from head_training.report.page import ImageTile, Multiples, Plot, Section, Sheet, Table, render
from tests.head_training.report.pages import Page

NASTY = "<script>alert(\"$x$ & 'y'\")</script>"


def bars(axes: Axes) -> None:
    axes.bar([NASTY, "b"], [1, 2])
    axes.fill_between([0, 1], [0, 0], [1, 2], hatch="/")  # hatches and clips are referred to by id


def sections() -> list[Section]:
    plots = [Plot(NASTY, style.draw(bars, f"{NASTY} {number}"), NASTY, dense=bool(number)) for number in range(2)]
    table = Table(NASTY, ("", NASTY), [(NASTY, "0.8 (0.7–0.9)")], NASTY, wide=True, emphasis=(0,))
    tiles = [ImageTile(NASTY, "data:image/jpeg;base64,AA==", [(NASTY, "good")]), ImageTile("none", None, [])]
    panels = Multiples(NASTY, [(NASTY, style.draw_panel(bars, "panel"))], NASTY)
    return [
        Section("First part", [*plots, table], [NASTY], [(NASTY, NASTY)]),
        Section("Second", [panels, Sheet("s", tiles)]),
    ]


def test_a_page_refers_to_nothing_outside_itself() -> None:
    """Only data: URIs and anchors that exist; no script; unique ids; balanced tags."""
    page = Page(render("Title", "below", sections()))
    assert "script" not in page.tags
    outside = [name for name in page.references if not name.startswith(("#", "data:"))]
    assert outside == []
    anchors = {name.removeprefix("#") for name in page.references if name.startswith("#")}
    assert anchors <= set(page.ids)
    assert len(anchors) > 4
    assert len(set(page.ids)) == len(page.ids)


def test_texts_are_shown_as_they_are() -> None:
    """Names from files are neither markup nor mathematics in texts, tables and figures."""
    page = Page(render(NASTY, NASTY, sections()))
    heads, lead, plots, table, panels, tiles = 3, 3, 2 * 3, 4, 4, 2
    assert page.text.count(NASTY) == heads + lead + plots + table + panels + tiles
    assert page.tags["svg"] == 3
    assert page.tags["img"] == 1
    assert "no example" in page.text


def test_the_notice_is_on_top_and_at_the_bottom() -> None:
    """The notice is before the first section and after the last."""
    html = render("Title", "below", sections())
    notice = "Research software, not a medical device."
    assert html.count(notice) == 2
    assert html.index(notice) < html.index("<section") < html.rindex("</section>") < html.rindex(notice)


def test_the_same_page_is_the_same_bytes() -> None:
    """No date and no random id, so reports can be compared."""
    assert render("Title", "below", sections()) == render("Title", "below", sections())


def test_numbers_are_formatted_for_readers() -> None:
    """Thousands, shares, signs and intervals; undefined values are dashes."""
    assert style.count(112120) == "112,120"
    assert [style.percent(value) for value in (0.5384, 0.00202, 0.0, None)] == [
        "53.8\u00a0%",
        "0.20\u00a0%",
        "0.0\u00a0%",
        "–",
    ]
    assert [style.decimal(value, 2) for value in (0.845, -0.1, float("nan"), None)] == ["0.84", "−0.10", "–", "–"]
    assert style.with_interval(0.8, 0.75, 0.85) == "0.800 (0.750–0.850)"
    assert style.with_interval(0.8, float("nan"), 0.85) == "0.800"
    assert [style.compact(value) for value in (0.0003, 1e-6, 256.0)] == ["0.0003", "1e-6", "256"]
    assert style.spell("Pleural_Thickening") == "Pleural Thickening"
