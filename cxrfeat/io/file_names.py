"""Names of local files as text: names in UTF-8 as they are, all others percent-escaped, and back.

A file name is bytes. Tables and JSON hold text, so a name that is not UTF-8 has each foreign byte written as ``%FF``
and each percent sign as ``%25``. A UTF-8 name that looks exactly like such an escape is escaped too; every other UTF-8
name, ``100%20.png`` included, stays as it is. So two files never share a text, and each text leads back to one file.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"%(25|[89A-F][0-9A-F])")


def to_text(path: bytes) -> str:
    r"""Return a path as text, name by name.

    Example:
        >>> to_text(b"a/R\xc3\xb6ntgen.png"), to_text(b"a/R\xf6ntgen.png"), to_text(b"100%20.png")
        ('a/Röntgen.png', 'a/R%F6ntgen.png', '100%20.png')
    """
    return "/".join(_escape(name) if _needs_escape(name) else name.decode() for name in path.split(b"/"))


def to_bytes(text: str) -> bytes:
    r"""Return the path that :func:`to_text` has turned into a text.

    Example:
        >>> to_bytes("a/R%F6ntgen.png"), to_bytes("100%20.png")
        (b'a/R\xf6ntgen.png', b'100%20.png')
    """
    return b"/".join(_read_name(name.encode()) for name in text.split("/"))


def _read_name(name: bytes) -> bytes:
    return _unescape(name) if _is_escape(name) else name


def _escape(name: bytes) -> str:
    characters = name.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in characters)


def _unescape(name: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), name)


def _needs_escape(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return _is_escape(name)


def _is_escape(name: bytes) -> bool:
    """Return True if a UTF-8 name is the text of another name, one that needs an escape."""
    if b"%" not in name:
        return False
    other = _unescape(name)
    return other != name and _needs_escape(other) and _escape(other).encode() == name
