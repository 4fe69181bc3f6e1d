"""Label sets: which labels a head predicts, and how names in a metadata table map to them.

An extraction stores the names that a table calls positive, unknown or uncertain, as they are written. A label set turns
them into targets when a head is trained or evaluated, so one table of embeddings serves any number of label sets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrfeat.errors import ConfigError

ANY_NAME = "*"
"""Part of a merge that stands for every positive name except the negative one."""

RESERVED = frozenset(("any_finding", "macro", "micro", "weighted", "samples"))
"""Scopes of metrics that are not labels."""

_MAX_LABELS = 512
_Choice = TypeVar("_Choice", bound=StrEnum)


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

    def with_nan(self) -> NDArray[np.float32]:
        """Return (N, F) float32 labels with NaN where the target is unknown."""
        return np.where(self.known, self.labels, np.float32(np.nan))


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
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    merges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    negative: str | None = None
    negative_output: bool = False
    uncertain: Uncertain = Uncertain.MISSING
    blank: Blank = Blank.NEGATIVE

    def __post_init__(self) -> None:
        """Check the names against each other."""
        if not 1 <= len(self.outputs) <= _MAX_LABELS:
            raise self._error(f"{len(self.outputs)} labels; expected 1 to {_MAX_LABELS}")
        reserved = sorted(RESERVED.intersection(self.outputs))
        if reserved:
            raise self._error(f"the label {reserved[0]}, which is the name of an average in evaluations")
        if not self.labels:
            raise self._error("no label beside the negative name")
        if self.negative_output and self.negative is None:
            raise self._error("negative_output without a negative name")
        for kind, names in (("aliases", self.aliases), ("merges", self.merges)):
            strangers = sorted(set(names).difference(self.labels, [self.negative] if kind == "aliases" else []))
            if strangers:
                raise self._error(f"{kind} of {', '.join(strangers)}; known labels are {', '.join(self.labels)}")
        spellings: dict[str, str] = {}
        for output, spelling in self.spellings():
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

    @property
    def findings_count(self) -> int:
        """Number of the first outputs that are findings; the negative name, if it is an output, comes after them."""
        return len(self.labels)

    def without(self, outputs: Collection[str]) -> LabelSet:
        """Return the set without some of its outputs.

        Raises:
            ConfigError: no label is left.
        """
        labels = tuple(label for label in self.labels if label not in outputs)
        return LabelSet(
            f"{self.name} without {', '.join(name for name in self.outputs if name in outputs)}",
            labels,
            {name: aliases for name, aliases in self.aliases.items() if name not in outputs or name == self.negative},
            {name: parts for name, parts in self.merges.items() if name not in outputs},
            self.negative,
            self.negative_output and self.negative not in outputs,
            self.uncertain,
            self.blank,
        )

    def find(self, name: str) -> str | None:
        """Return the label, or the negative name, that a name or one of its aliases stands for; None if there is none.

        Example:
            >>> LabelSet("one", ("Pleural_Thickening",)).find("pleural thickening")
            'Pleural_Thickening'
        """
        folded = fold(name)
        return next((output for output, spelling in self.spellings() if fold(spelling) == folded), None)

    def covers(self, name: str) -> bool:
        """Return True if a name is a label, the negative name, an alias, or a part of a merge."""
        return self.find(name) is not None or any(self._columns_of(name))

    def targets(
        self,
        findings: pa.ChunkedArray,
        unknown: pa.ChunkedArray | None = None,
        uncertain: pa.ChunkedArray | None = None,
    ) -> Targets:
        """Return the targets of N images.

        A label is positive if its name, an alias or a merged name is among the findings; otherwise unknown if one of
        them is unknown under the rules of the set; otherwise negative.

        Args:
            findings: N lists of positive names; a null list makes all targets of its image unknown.
            unknown: N lists of names that are uncertain or not annotated, null for an image whose table names positive
                labels alone; or None for N nulls.
            uncertain: N lists of the unknown names that are marked uncertain, or None.

        Example:
            >>> findings = pa.chunked_array([[["Mass", "Edema"], [], None]])
            >>> targets = LabelSet("two", ("Mass", "Nodule")).targets(findings)
            >>> targets.labels.tolist(), targets.known.tolist()
            ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [[True, True], [True, True], [False, False]])
        """
        count, codes = len(findings), _Codes()
        rows, names = codes.encode(findings)
        unknown_rows, unknown_names = codes.encode(unknown)
        uncertain_rows, uncertain_names = codes.encode(uncertain)
        columns = np.array([self._columns_of(name) for name in codes.names], bool).reshape(-1, len(self.outputs))
        positive = _mark(count, rows, columns[names])  # (N, F) each: an output is named
        doubtful = _mark(count, uncertain_rows, columns[uncertain_names])
        keys, marked = (
            row * len(codes.names) + name
            for row, name in ((unknown_rows, unknown_names), (uncertain_rows, uncertain_names))
        )
        blank = ~np.isin(keys, marked)  # of the unknown names, those that are not annotated
        missing = _mark(count, unknown_rows[blank], columns[unknown_names[blank]])
        if self.uncertain == Uncertain.POSITIVE:
            positive |= doubtful
        hidden = np.zeros_like(positive)
        if self.uncertain == Uncertain.MISSING:
            hidden |= doubtful
        if self.blank == Blank.MISSING:
            hidden |= missing
        hidden &= ~positive
        if self.negative_output:
            negative = np.array([self.find(name) == self.negative for name in codes.names], bool)
            named = np.zeros(count, bool)  # (N,): a name other than the negative one
            named[rows[~negative[names]]] = True
            others = positive[:, :-1].any(axis=1)
            # Where a table names positive labels alone, no name implies the negative one; a table of flags states it.
            implied = np.ones(count, bool) if unknown is None else pc.is_null(unknown).to_numpy()
            positive[:, -1] |= implied & ~named & ~others
        unlabelled = pc.is_null(findings).to_numpy()  # (N,)
        positive[unlabelled], hidden[unlabelled] = False, True
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

    def spellings(self) -> Iterator[tuple[str, str]]:
        """Yield every label, and the negative name, with each of its spellings, its own name first."""
        names = self.labels if self.negative is None else (*self.labels, self.negative)
        for output in names:
            yield from ((output, spelling) for spelling in (output, *self.aliases.get(output, ())))

    def _columns_of(self, name: str) -> list[bool]:
        """Return (F,): the outputs that a name makes positive."""
        direct, folded = self.find(name), fold(name)
        negative = self.negative is not None and direct == self.negative
        return [
            output == direct
            or (ANY_NAME in self.merges.get(output, ()) and not negative)
            or folded in map(fold, self.merges.get(output, ()))
            for output in self.outputs
        ]

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"label set {self.name!r}: {text}")


def fold(name: str) -> str:
    """Return a name in the form in which names are compared: lower case, with single spaces between words.

    Example:
        >>> fold(" Pleural_Thickening "), fold("No-Finding")
        ('pleural thickening', 'no finding')
    """
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


class _Codes:
    """Codes of names that several columns of lists share."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """Names in the order of their codes."""
        return list(self._codes)

    def encode(self, column: pa.ChunkedArray | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and code of each name in N lists, (M,) each; nothing for None."""
        if column is None or not len(column):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
        values = pc.utf8_trim_whitespace(pc.list_flatten(lists).cast(pa.string())).dictionary_encode()
        codes = [self._codes.setdefault(name, len(self._codes)) for name in values.dictionary.to_pylist()]
        return rows, np.array(codes, np.int64)[values.indices.to_numpy()]


def _mark(count: int, rows: NDArray[np.int64], columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (count, F): True where one of the M names of a row belongs to an output; ``columns`` is (M, F)."""
    marks = np.zeros((count, columns.shape[1]), dtype=bool)
    for output in range(columns.shape[1]):
        marks[rows[columns[:, output]], output] = True
    return marks


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
