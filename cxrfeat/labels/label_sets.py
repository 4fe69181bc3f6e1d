"""Built-in label sets, and label sets from TOML files.

A file has the keys of :meth:`cxrfeat.labels.label_set.LabelSet.describe`; all but ``labels`` may be missing::

    labels = ["Opacity", "Cardiomegaly"]
    negative = "No Finding"              # name that means none of the labels
    negative_output = false              # true: predict it too
    uncertain = "missing"                # or positive, negative
    blank = "negative"                   # or missing

    [aliases]
    Cardiomegaly = ["Enlarged Heart"]

    [merges]
    Opacity = ["Infiltration", "Consolidation", "Pneumonia"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from cxrfeat.errors import ConfigError
from cxrfeat.io import storage
from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from cxrfeat.labels.label_set import ANY_NAME, LabelSet

_EFFUSION = ("Pleural Effusion",)
_NIH_ALIASES = {"Effusion": _EFFUSION, "Infiltration": ("Infiltrate",), "Hernia": ("Hiatal Hernia",)}

NIH14 = LabelSet("nih14", FINDINGS, _NIH_ALIASES, negative=NO_FINDING)
"""The 14 findings of ChestX-ray14 in the order of the paper: the default."""

_NIH15 = LabelSet("nih14+no-finding", FINDINGS, _NIH_ALIASES, negative=NO_FINDING, negative_output=True)

_NIH_MERGED = LabelSet(
    "nih-merged",
    (
        *("Atelectasis", "Cardiomegaly", "Effusion", "Opacity", "Mass_Nodule", "Pneumothorax", "Edema", "Emphysema"),
        *("Fibrosis", "Pleural_Thickening", "Hernia"),
    ),
    {"Effusion": _EFFUSION, "Hernia": ("Hiatal Hernia",)},
    {"Opacity": ("Infiltration", "Infiltrate", "Consolidation", "Pneumonia"), "Mass_Nodule": ("Mass", "Nodule")},
    negative=NO_FINDING,
)

_NORMAL_ABNORMAL = LabelSet(
    "normal-abnormal",
    ("Abnormal",),
    {NO_FINDING: ("Normal",)},
    {"Abnormal": (ANY_NAME,)},
    negative=NO_FINDING,
)

_CHEXPERT = LabelSet(
    "chexpert",
    (
        *("Enlarged_Cardiomediastinum", "Cardiomegaly", "Lung_Opacity", "Lung_Lesion", "Edema", "Consolidation"),
        *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural_Effusion", "Pleural_Other", "Fracture"),
        "Support_Devices",
    ),
    {"Pleural_Effusion": ("Effusion",)},
    negative="No_Finding",
    negative_output=True,
)

_CHEXPERT5 = LabelSet(
    "chexpert5",
    ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural_Effusion"),
    {"Pleural_Effusion": ("Effusion",)},
    negative="No_Finding",
)

LABEL_SETS: Mapping[str, LabelSet] = {
    found.name: found for found in (NIH14, _NIH15, _NIH_MERGED, _NORMAL_ABNORMAL, _CHEXPERT, _CHEXPERT5)
}
"""Built-in label sets by name."""


def label_set_of_head(description: Mapping[str, Any], where: str) -> LabelSet:
    """Return the label set in the description of a head, ``bundle.json``; format 1 has NIH's findings.

    Raises:
        ConfigError: the label set is invalid.
    """
    if description.get("format") == 1:
        return NIH14
    return LabelSet.from_json(description.get("label_set"), f"{where}, label_set")


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
