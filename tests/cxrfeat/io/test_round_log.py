"""The log of rounds: what is written is read back, and nothing that is damaged passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrfeat.errors import CheckpointError
from cxrfeat.io.refs import ImageRef, from_table, to_table
from cxrfeat.io.round_log import RoundLog

ITEMS = [
    ImageRef("a.png"),
    ImageRef("b.tar", "x/1.png", 512, 99),
    ImageRef("c.tgz", length=7),
    ImageRef("d.zip", reason="truncated-archive", message="it ends early"),
]


def open_log(folder: Path) -> RoundLog:
    return RoundLog(str(folder), "/in")


def test_references_survive_a_table() -> None:
    """Every field of a reference comes back, also from an empty table."""
    assert from_table(to_table(ITEMS)) == ITEMS
    assert from_table(to_table([])) == []
    assert [item.key for item in ITEMS] == ["a.png", "b.tar/x/1.png", "c.tgz", "d.zip"]


def test_a_log_is_read_back(tmp_path: Path) -> None:
    """Rounds, keys and notes; an unfinished round is handed over as it was planned; numbers go on."""
    log = open_log(tmp_path)
    log.finish(log.plan(ITEMS[:1]), {"archives": {"c.tgz": 3}})
    log.plan(ITEMS[1:])
    again = open_log(tmp_path)
    assert again.known == {item.key for item in ITEMS}
    assert again.notes == {0: {"archives": {"c.tgz": 3}}}
    assert again.unfinished is not None
    assert (again.unfinished.number, list(again.unfinished.items)) == (1, ITEMS[1:])
    again.finish(again.unfinished, {})
    last = open_log(tmp_path)
    assert last.unfinished is None
    assert last.plan([ImageRef("e.png")]).number == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.parquet", b"", "0.parquet is damaged"),
        ("0.parquet", b"PAR1 cut", "0.parquet is damaged"),
        ("0.done", b"{", "0.done is damaged"),
        ("0.done", b"[]", "0.done holds a list; expected an object"),
        ("0.parquet", None, "offsets has no round below 1; expected all of them"),
        ("0.done", None, r"has rounds \[0, 1\], of which \[1\] are done"),
    ],
)
def test_a_damaged_log_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """A log that is cut, empty or has a gap is an error that names it, never an empty log."""
    log = open_log(tmp_path)
    for item in ITEMS[:2]:
        log.finish(log.plan([item]), {})
    path = tmp_path / "rounds" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_log(tmp_path)
