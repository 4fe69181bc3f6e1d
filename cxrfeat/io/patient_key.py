"""Secret key of the hashes that replace patients' identifiers: one file per site, on the driver alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cxrfeat.errors import ConfigError

KEY_BYTES = 32
"""Length of a key."""


def default_location() -> Path:
    """Return the file of the key: ``$XDG_CONFIG_HOME/cxrfeat/patient-key``, by default below ``~/.config``."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(home, "cxrfeat", "patient-key")


def load_key(location: str | None = None) -> bytes:
    """Return the key in a file; a file that does not exist is created with a random key that only its owner can read.

    Args:
        location: the file; None for the default one.

    Raises:
        ConfigError: the file cannot be read or created, or does not hold 32 bytes as 64 hex digits.
    """
    path = default_location() if location is None else Path(location)
    try:
        if location is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError(
            f"cannot read or create the key of the patients' hashes, {path}: {error.strerror}; use --patient-key FILE"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no key: expected {2 * KEY_BYTES} hex digits") from error
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} holds {len(key)} bytes; expected {KEY_BYTES} as {2 * KEY_BYTES} hex digits")
    return key
