"""Metadata inside containers: integer features of TFRecord files, and the neighbours of WebDataset images.

Both become records of a table with the column ``image_path``, which the reader of metadata tables reads like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cxrfeat.images.candidates import Candidate, classify
from cxrfeat.images.containers import read_record_integers, read_small_members
from cxrfeat.io.container_names import ContainerKind, kind_of
from cxrfeat.io.refs import ImageRef
from cxrfeat.labels.columns import ColumnMap, LabelColumns, fold_column
from cxrfeat.labels.table_text import Records

IMAGE_COLUMN = "image_path"
CLASS_COLUMN = "cls"

_COLUMNS = ColumnMap(
    "fields of the containers",
    image=(IMAGE_COLUMN,),
    patient=("patient_id", "patient", "Patient ID", "PatientID", "patientId", "subject_id"),
    age=("age_years", "age", "Patient Age", "PatientAge"),
    sex=("sex", "gender", "Patient Gender", "Patient Sex", "PatientSex"),
    view=("view_position", "view", "View Position", "ViewPosition"),
    split=("split",),
)
_LABELS = ("labels", "label", "findings", "Finding Labels", CLASS_COLUMN)
"""Alternatives of the column with the names of the positive labels, where no column is 0 or 1."""

_MAX_NEIGHBOUR_BYTES = 1 << 20
_READERS = 16
_FLAGS = frozenset({"", "0", "1"})

Fields = dict[str, str]


def read_container_metadata(
    root: str, items: Sequence[ImageRef], *, webdataset: bool, column_map: ColumnMap | None = None
) -> tuple[Records, ColumnMap] | None:
    """Return the records in the containers of a listing, and the map of their columns; None without any.

    Args:
        root: qualified images root.
        items: items of the listing.
        webdataset: read the ``.json`` and ``.cls`` neighbours of images in tar archives.
        column_map: the map of the columns, whose image is ``image_path``; None finds patient, age, sex, view and split
            by their usual names; all other columns that hold nothing but 0 and 1 are labels.

    Raises:
        OSError: the error is not caused by a container itself.
    """
    kinds = {item.path: kind_of(item.path) for item in items if item.member is not None or item.length is not None}
    records = sorted(path for path, kind in kinds.items() if kind == ContainerKind.TFRECORD)
    shards = sorted(path for path, kind in kinds.items() if kind == ContainerKind.TAR and webdataset)
    members: dict[str, list[str]] = {path: [] for path in shards}
    for item in items:
        if item.path in members and item.member is not None:
            members[item.path].append(item.member)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = [
            *pool.map(lambda path: list(_read_records(root, path)), records),
            *pool.map(lambda path: list(_read_neighbours(root, path, members[path])), shards),
        ]
    rows = dict(row for table in tables for row in table)
    if not any(rows.values()):
        return None
    header = (IMAGE_COLUMN, *dict.fromkeys(name for fields in rows.values() for name in fields if name != IMAGE_COLUMN))
    table = Records(
        "the containers",
        header,
        list(range(1, len(rows) + 1)),
        [json.dumps({IMAGE_COLUMN: path, **fields}) for path, fields in rows.items()],
        [[path, *(fields.get(name, "") for name in header[1:])] for path, fields in rows.items()],
    )
    return table, column_map or _map_columns(table)


def _map_columns(table: Records) -> ColumnMap:
    fields = (_COLUMNS.image, _COLUMNS.patient, _COLUMNS.age, _COLUMNS.sex, _COLUMNS.view, _COLUMNS.split)
    known = {fold_column(name) for names in fields for name in names}
    flags = {
        name: name
        for place, name in enumerate(table.header)
        if fold_column(name) not in known and set(table.column(place)) <= _FLAGS
    }
    labels = LabelColumns(flags=flags) if flags else LabelColumns(column=_LABELS)
    return replace(_COLUMNS, labels=labels)


def _read_records(root: str, path: str) -> Iterator[tuple[str, Fields]]:
    for member, integers in read_record_integers(root, path):
        yield f"{path}/{member}", {name: str(value) for name, value in integers.items()}


def _read_neighbours(root: str, path: str, images: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the fields of each image of a WebDataset shard: those of the members with the same name up to a dot.

    The images of a gzipped shard, which has no index, are told by their names.
    """
    fields: dict[str, Fields] = {}
    named: list[str] = []
    for member, content in read_small_members(root, path, (".json", ".cls"), _MAX_NEIGHBOUR_BYTES):
        if content is None:
            named += [member] if classify(member.rpartition("/")[2]) != Candidate.NO else []
            continue
        found = fields.setdefault(_sample_of(member), {})
        if member.endswith(".cls"):
            found[CLASS_COLUMN] = content.decode(errors="replace").strip()
        else:
            found.update(_read_json(content))
    for image in images or named:
        yield f"{path}/{image}", fields.get(_sample_of(image), {})


def _sample_of(member: str) -> str:
    folder, slash, name = member.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _read_json(content: bytes) -> Fields:
    """Return the scalar fields of a JSON object, and lists of texts joined by ``|``; nothing if it is not one."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    fields = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, bool):
            fields[name] = str(int(value))
        elif isinstance(value, str | int | float):
            fields[name] = str(value)
        elif isinstance(value, list) and all(isinstance(part, str) for part in value):
            fields[name] = "|".join(value)
    return fields
