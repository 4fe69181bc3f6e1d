"""Facts about an image and its patient that a file states and that may be stored."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

_DIGITS = 32


@dataclass(frozen=True)
class Pseudonyms:
    """Rule that replaces identifiers by keyed hashes.

    Attributes:
        key: secret of 32 random bytes. Without it, no hash can be traced back by trying all numbers.
        keep_patient_ids: keep the patients' identifiers as they are.
    """

    key: bytes = field(repr=False)
    keep_patient_ids: bool = False

    def name_patient(self, patient_id: str) -> str:
        """Return what is stored for a patient's identifier; equal identifiers give equal results."""
        return patient_id if self.keep_patient_ids else self.name("patient", patient_id)

    def name(self, kind: str, identifier: str) -> str:
        """Return the keyed hash of an identifier: 32 hex digits of HMAC-SHA-256."""
        return hmac.new(self.key, f"{kind}:{identifier}".encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    @property
    def key_id(self) -> str:
        """Return a name of the key that does not disclose it."""
        return self.name("key", "")[:8]


@dataclass(frozen=True)
class Header:
    """Facts of a DICOM header. Words are of closed lists, and identifiers are hashed: nothing names a person.

    Attributes:
        patient_id: keyed hash, or the identifier itself if the run keeps it; None without a rule.
        age_years: age in years at the time of the image.
        sex: M or F.
        view_position: PA, AP, LL, RL, …
        laterality: R, L, U (unpaired) or B (both).
        modality: CR, DX, …
        body_part: CHEST, another part of DICOM's list, or OTHER.
        pixel_spacing: distance of the rows and of the columns in mm.
        series_id, instance_id: keyed hashes of the UIDs of the series and of the image.

    Each is None where the header does not say it, or says it in an illegal way.
    """

    patient_id: str | None = None
    age_years: float | None = None
    sex: str | None = None
    view_position: str | None = None
    laterality: str | None = None
    modality: str | None = None
    body_part: str | None = None
    pixel_spacing: tuple[float, float] | None = None
    series_id: str | None = None
    instance_id: str | None = None


NO_HEADER = Header()
"""Header of a file that has none."""
