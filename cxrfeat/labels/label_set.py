"""Label sets: which labels a head predicts, and how names in a metadata table map to them.

An extraction stores the names that a table calls positive, unknown or uncertain, as they are written. A label set turns
them into targets when a head is trained or evaluated, so one table of embeddings serves any number of label sets.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import ConfigError
from cxrfeat.io import storage
from cxrfeat.labels.findings import FINDINGS, NO_FINDING

ANY_NAME = "*"
"""Part of a merge that stands for every positive name except the negative one."""

_MAX_LABELS = 512
_Choice = TypeVar("_Choice", bound=StrEnum)
_NO_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class Uncertain(StrEnum):
    """Target of a label that the table marks as uncertain."""

    MISSING = "missing"
    POSITIVE = "positive"
    NEGATIVE = "negative"


class Blank(StrEnum):
    """Target of a label whose cell in the table is empty."""

    NEGATIVE = "negative"
    MISSING = "missing"


@dataclass(frozen=True)
class Targets:
    """Targets of N images for the F outputs of a label set.

    Attributes:
        labels: (N, F) float32, 1 = positive, 0 = negative or unknown.
        known: (N, F) bool, False where the target is unknown: such a cell has no weight in a loss or a metric.
    """

    labels: NDArray[np.float32]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class LabelSet:
    """Labels that a head predicts, and how names in a table map to them.

    Names are compared without regard to case; spaces, underscores and hyphens are equal.

    Attributes:
        name: name of the set.
        labels: labels in the order of the outputs.
        aliases: label → other spellings of it.
        merges: label → names that make it positive, beside its own; ``*`` stands for every name but the negative one.
        negative: name that means "none of the labels", or None.
        negative_output: True if the negative name is one more output, after the labels.
        uncertain: target of an uncertain label.
        blank: target of a label whose cell is empty.

    Raises:
        ConfigError: no label, a label or spelling that occurs twice, a merge into an unknown label, a negative output
            without a negative name.
    """

    name: str
    labels: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NO_NAMES)
    merges: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NO_NAMES)
    negative: str | None = None
    negative_output: bool = False
    uncertain: Uncertain = Uncertain.MISSING
    blank: Blank = Blank.NEGATIVE

    def __post_init__(self) -> None:
        """Check the names against each other."""
        if not 1 <= len(self.outputs) <= _MAX_LABELS:
            raise self._error(f"{len(self.outputs)} labels; expected 1 to {_MAX_LABELS}")
        if self.negative_output and self.negative is None:
            raise self._error("negative_output without a negative name")
        for kind, names in (("aliases", self.aliases), ("merges", self.merges)):
            strangers = sorted(set(names).difference(self.labels, [self.negative] if kind == "aliases" else []))
            if strangers:
                raise self._error(f"{kind} of {', '.join(strangers)}; known labels are {', '.join(self.labels)}")
        spellings: dict[str, str] = {}
        for output, spelling in self._spellings():
            if not fold(spelling) or not spelling.isprintable():
                raise self._error(f"the name {spelling!r}; expected printable letters or digits")
            other = spellings.setdefault(fold(spelling), output)
            if other != output:
                raise self._error(f"{spelling!r} stands for {other} and for {output}")
        if len(set(map(fold, self.outputs))) < len(self.outputs):
            raise self._error(f"a label occurs twice in {', '.join(self.outputs)}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the F outputs: the labels and, where it is an output, the negative name."""
        return (*self.labels, self.negative) if self.negative_output and self.negative else self.labels

    def find(self, name: str) -> str | None:
        """Return the label, or the negative name, that a name or one of its aliases stands for; None if there is none.

        Example:
            >>> NIH14.find("pleural thickening"), NIH14.find("Fracture")
            ('Pleural_Thickening', None)
        """
        folded = fold(name)
        return next((output for output, spelling in self._spellings() if fold(spelling) == folded), None)

    def targets(
        self,
        findings: pa.ChunkedArray,
        unknown: pa.ChunkedArray | None = None,
        uncertain: pa.ChunkedArray | None = None,
    ) -> Targets:
        """Return the targets of N images.

        Args:
            findings: N lists of positive names; a null list makes all targets of its image unknown.
            unknown: N lists of names that are uncertain or not annotated, or None.
            uncertain: N lists of the unknown names that are marked uncertain, or None.

        Example:
            >>> findings = pa.chunked_array([[["Mass", "Edema"], [], None]])
            >>> targets = LabelSet("two", ("Mass", "Nodule")).targets(findings)
            >>> targets.labels.tolist(), targets.known.tolist()
            ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [[True, True], [True, True], [False, False]])
        """
        positive = self._marks(findings)  # (N, F): an output or one of its parts is named
        doubtful = self._marks(uncertain) if uncertain is not None else np.zeros_like(positive)
        missing = self._marks(unknown) if unknown is not None else doubtful
        blank = self._marks(_difference(unknown, uncertain)) if unknown is not None else np.zeros_like(positive)
        if unknown is not None and uncertain is None:  # nothing says that a name is uncertain: all are not annotated
            blank = missing
        if self.uncertain == Uncertain.POSITIVE:
            positive = positive | doubtful
        hidden = np.zeros_like(positive)  # (N, F): no target
        if self.uncertain == Uncertain.MISSING:
            hidden |= doubtful
        if self.blank == Blank.MISSING:
            hidden |= blank
        hidden &= ~positive
        if self.negative_output and self.negative is not None:
            last = len(self.outputs) - 1
            named = self._names_any(findings)
            doubt = hidden[:, :last].any(axis=1)
            positive[:, last] |= ~named & ~doubt & ~missing[:, last]
            positive[:, last] &= ~positive[:, :last].any(axis=1)
            hidden[:, last] = ~positive[:, last] & ~named & (doubt | hidden[:, last])
        without = pc.is_null(findings).to_numpy()  # (N,)
        positive[without] = False
        hidden[without] = True
        return Targets(positive.astype(np.float32), ~hidden)

    def describe(self) -> dict[str, Any]:
        """Return the set as JSON values; :meth:`from_json` reads them."""
        return {
            "name": self.name,
            "labels": list(self.labels),
            "aliases": {label: list(names) for label, names in self.aliases.items()},
            "merges": {label: list(names) for label, names in self.merges.items()},
            "negative": self.negative,
            "negative_output": self.negative_output,
            "uncertain": self.uncertain.value,
            "blank": self.blank.value,
        }

    @classmethod
    def from_json(cls, values: Any, where: str) -> LabelSet:
        """Read a set from JSON or TOML values.

        Args:
            values: as :meth:`describe` returns them; all but ``labels`` may be missing.
            where: source of the values, for errors.

        Raises:
            ConfigError: an unknown key, a value of another type, or names that contradict each other.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: a label set is {type(values).__name__}; expected a table")
        known = ("name", "labels", "aliases", "merges", "negative", "negative_output", "uncertain", "blank")
        strangers = sorted(set(values).difference(known))
        if strangers:
            raise ConfigError(f"{where}: unknown keys {', '.join(strangers)}; known are {', '.join(known)}")
        if "labels" not in values:
            raise ConfigError(f'{where}: no labels; expected labels = ["Name", …]')
        name, negative, flag = values.get("name", where), values.get("negative"), values.get("negative_output", False)
        if not isinstance(name, str) or not (negative is None or isinstance(negative, str)):
            raise ConfigError(f"{where}: name and negative must be texts")
        if not isinstance(flag, bool):
            raise ConfigError(f"{where}: negative_output is {flag!r}; expected true or false")
        return cls(
            name=name,
            labels=_names(where, "labels", values["labels"]),
            aliases=_name_table(where, "aliases", values.get("aliases", {})),
            merges=_name_table(where, "merges", values.get("merges", {})),
            negative=negative,
            negative_output=flag,
            uncertain=_choice(where, "uncertain", values.get("uncertain", Uncertain.MISSING), Uncertain),
            blank=_choice(where, "blank", values.get("blank", Blank.NEGATIVE), Blank),
        )

    def _spellings(self) -> Iterator[tuple[str, str]]:
        """Yield every label, and the negative name, with each of its spellings, its own name first."""
        names = self.labels if self.negative is None else (*self.labels, self.negative)
        for output in names:
            yield from ((output, spelling) for spelling in (output, *self.aliases.get(output, ())))

    def _marks(self, names: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return (N, F): whether a list names an output, one of its aliases, or a part that is merged into it."""
        marks = np.zeros((len(names), len(self.outputs)), dtype=bool)
        rows, values = _flatten(names)
        texts = values.dictionary.to_pylist()
        codes = values.indices.to_numpy(zero_copy_only=False)
        columns = [self._columns_of(text) for text in texts]
        for code, found in enumerate(columns):
            for column in found:
                marks[rows[codes == code], column] = True
        return marks

    def _columns_of(self, name: str) -> list[int]:
        """Return the outputs that a name makes positive."""
        direct, folded = self.find(name), fold(name)
        negative = self.negative is not None and direct == self.negative
        found = []
        for column, output in enumerate(self.outputs):
            parts = self.merges.get(output, ())
            whole = ANY_NAME in parts and not negative
            if output == direct or whole or folded in map(fold, parts):
                found.append(column)
        return found

    def _names_any(self, names: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return (N,): whether a list holds a name other than the negative one."""
        found = np.zeros(len(names), dtype=bool)
        rows, values = _flatten(names)
        other = np.array([self.find(text) != self.negative for text in values.dictionary.to_pylist()], dtype=bool)
        codes = values.indices.to_numpy(zero_copy_only=False)
        if len(codes):
            found[rows[other[codes]]] = True
        return found

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"label set {self.name!r}: {text}")


def fold(name: str) -> str:
    """Return a name in the form in which names are compared: lower case, with single spaces between words.

    Example:
        >>> fold(" Pleural_Thickening "), fold("No-Finding")
        ('pleural thickening', 'no finding')
    """
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def load_label_set(name: str) -> LabelSet:
    """Return a built-in label set by name, or read one from a TOML file.

    Raises:
        ConfigError: neither a built-in name nor a file, or a file that is not a label set.
    """
    if name in LABEL_SETS:
        return LABEL_SETS[name]
    if not name.endswith(".toml"):
        raise ConfigError(f"unknown label set {name!r}; known are {', '.join(LABEL_SETS)}, or a .toml file")
    storage.check_file(name)
    try:
        values = tomllib.loads(storage.read_bytes(name).decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, OSError) as error:
        raise ConfigError(f"cannot read the label set {name}: {error}") from error
    return LabelSet.from_json({"name": name.rpartition("/")[2].removesuffix(".toml"), **values}, name)


def _flatten(names: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.DictionaryArray]:
    """Return the row of each name of N lists, and the names, trimmed, as a dictionary array."""
    column = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    rows = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    values = pc.utf8_trim_whitespace(pc.list_flatten(column).cast(pa.string()))
    return rows, values.dictionary_encode()


def _difference(names: pa.ChunkedArray | None, others: pa.ChunkedArray | None) -> pa.ChunkedArray:
    """Return N lists without the names of N other lists."""
    left = names.to_pylist() if names is not None else []
    right = others.to_pylist() if others is not None else [None] * len(left)
    kept = [
        [name for name in mine or () if name not in set(theirs or ())] for mine, theirs in zip(left, right, strict=True)
    ]
    return pa.chunked_array([pa.array(kept, pa.list_(pa.string()))])


def _names(where: str, key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{where}: {key} is {values!r}; expected a list of texts")
    return tuple(values)


def _name_table(where: str, key: str, values: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(values, dict):
        raise ConfigError(f'{where}: {key} is {values!r}; expected a table of label = ["name", …]')
    return {label: _names(where, f"{key}.{label}", names) for label, names in values.items()}


def _choice(where: str, key: str, value: Any, kind: type[_Choice]) -> _Choice:
    if value not in list(kind):
        raise ConfigError(f"{where}: {key} is {value!r}; expected one of {', '.join(kind)}")
    return kind(value)


_CHEXPERT_ALIASES = {
    "Pleural_Effusion": ("Effusion",),
    "Enlarged_Cardiomediastinum": ("Enlarged Cardiomed.",),
    "Lung_Opacity": ("Airspace Opacity",),
}

NIH14 = LabelSet(
    "nih14",
    FINDINGS,
    aliases={"Effusion": ("Pleural Effusion",), "Infiltration": ("Infiltrate",), "Hernia": ("Hiatal Hernia",)},
    negative=NO_FINDING,
)
"""The 14 findings of ChestX-ray14 in the order of the paper: the default."""

LABEL_SETS: Mapping[str, LabelSet] = {
    label_set.name: label_set
    for label_set in (
        NIH14,
        LabelSet("nih14+no-finding", FINDINGS, NIH14.aliases, negative=NO_FINDING, negative_output=True),
        LabelSet(
            "nih-merged",
            (
                *("Atelectasis", "Cardiomegaly", "Effusion", "Opacity", "Mass_Nodule", "Pneumothorax", "Edema"),
                *("Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
            ),
            aliases={"Effusion": ("Pleural Effusion",), "Hernia": ("Hiatal Hernia",)},
            merges={
                "Opacity": ("Infiltration", "Infiltrate", "Consolidation", "Pneumonia"),
                "Mass_Nodule": ("Mass", "Nodule"),
            },
            negative=NO_FINDING,
        ),
        LabelSet(
            "normal-abnormal",
            ("Abnormal",),
            aliases={NO_FINDING: ("Normal",)},
            merges={"Abnormal": (ANY_NAME,)},
            negative=NO_FINDING,
        ),
        LabelSet(
            "chexpert",
            (
                *("No_Finding", "Enlarged_Cardiomediastinum", "Cardiomegaly", "Lung_Opacity", "Lung_Lesion", "Edema"),
                *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural_Effusion", "Pleural_Other"),
                *("Fracture", "Support_Devices"),
            ),
            aliases=_CHEXPERT_ALIASES,
        ),
        LabelSet(
            "chexpert5",
            ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural_Effusion"),
            aliases={"Pleural_Effusion": _CHEXPERT_ALIASES["Pleural_Effusion"]},
            negative=NO_FINDING,
        ),
    )
}
"""Built-in label sets by name."""
