"""Pseudonyms: equal identifiers give equal hashes, which depend on the key and on the kind."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from cxrfeat.images.header import Pseudonyms

KEY = bytes(range(32))


@given(st.text(max_size=70), st.text(max_size=70))
def test_hashes_are_keyed_and_told_apart(one: str, other: str) -> None:
    """The hash is HMAC-SHA-256; another identifier, kind or key gives another."""
    pseudonyms = Pseudonyms(KEY)
    expected = hmac.digest(KEY, f"patient:{one}".encode(), hashlib.sha256).hex()[:32]
    assert pseudonyms.name_patient(one) == expected
    assert (pseudonyms.name_patient(one) == pseudonyms.name_patient(other)) == (one == other)
    assert pseudonyms.name("series", one) != expected != Pseudonyms(bytes(32)).name_patient(one)


def test_the_key_is_not_shown() -> None:
    """Neither the text of the rule nor the name of its key contains the key."""
    pseudonyms = Pseudonyms(KEY)
    assert KEY.hex() not in repr(pseudonyms) + pseudonyms.key_id
    assert repr(KEY) not in repr(pseudonyms)
    assert pseudonyms.key_id != Pseudonyms(bytes(32)).key_id


def test_identifiers_are_kept_on_request() -> None:
    """Patients keep their identifiers; UIDs are hashed in any case."""
    kept = Pseudonyms(KEY, keep_patient_ids=True)
    assert kept.name_patient("P1") == "P1"
    assert kept.name("image", "1.2.3") == Pseudonyms(KEY).name("image", "1.2.3") != "1.2.3"
