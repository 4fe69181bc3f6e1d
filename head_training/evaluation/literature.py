"""AUROC of the 14 findings of ChestX-ray14 in the literature, by split protocol.

A random split and the official one are two tasks and never share a ranking: the same model of Guendel et al. reaches 0.841
on random patients and 0.807 on the official list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cxrfeat.labels.findings import FINDINGS


class Protocol(StrEnum):
    """How images were divided."""

    OFFICIAL = "official list"
    RANDOM = "random"


@dataclass(frozen=True)
class Result:
    """What a paper reports on its test split.

    Attributes:
        name, year: how it is cited.
        protocol: results of different ones are never ranked together.
        source: where the numbers were taken from.
        mean: AUROC, as printed there.
        findings: AUROC of each finding.
        verified: whether the values of the findings were checked against that source; the means were.
    """

    name: str
    year: int
    protocol: Protocol
    source: str
    mean: float
    findings: Mapping[str, float]
    verified: bool

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def _result(
    name: str, year: int, protocol: Protocol, source: str, *, mean: float, values: str, verified: bool
) -> Result:
    """Make a result from its AUROCs in thousandths or ten-thousandths, in the order of the findings."""
    aurocs = [float(f"0.{digits}") for digits in values.split()]
    return Result(name, year, protocol, source, mean, dict(zip(FINDINGS, aurocs, strict=True)), verified)


_CHEXNET = "table in the README of github.com/arnoweng/CheXNet"

RESULTS = (
    _result(
        "Wang et al., v4", 2017, Protocol.RANDOM, f"ChestX-ray8, arXiv:1705.02315v4; {_CHEXNET}", mean=0.738,
        values="716 807 784 609 706 671 633 806 708 835 815 769 708 767", verified=True,
    ),
    _result(
        "CheXNet", 2017, Protocol.RANDOM, f"Rajpurkar et al., arXiv:1711.05225; {_CHEXNET}", mean=0.841,
        values="8094 9248 8638 7345 8676 7802 7680 8887 7901 8878 9371 8047 8062 9164", verified=True,
    ),
    _result(
        "Wang et al., v5", 2017, Protocol.OFFICIAL, "ChestX-ray8, arXiv:1705.02315v5", mean=0.745,
        values="7003 8100 7585 6614 6933 6687 6580 7993 7032 8052 8330 7859 6835 8717", verified=False,
    ),
    _result(
        "Yao et al.", 2018, Protocol.OFFICIAL,
        "Weakly supervised medical diagnosis and localization from multiple resolutions, arXiv:1803.07703", mean=0.761,
        values="733 856 806 673 777 724 684 805 711 806 842 743 724 775", verified=False,
    ),
    _result(
        "Guendel et al.", 2018, Protocol.OFFICIAL,
        "Learning to recognize abnormalities in chest X-rays with location-aware dense networks, arXiv:1803.04565", mean=0.807,
        values="767 883 828 709 821 758 731 846 745 835 895 818 761 896", verified=False,
    ),
    _result(
        "Baltruschat et al., ResNet-38 with metadata", 2018, Protocol.OFFICIAL,
        "Comparison of deep learning approaches for multi-label chest X-ray classification, arXiv:1803.02315", mean=0.806,
        values="763 875 822 694 820 747 714 840 749 846 895 816 763 937", verified=False,
    ),
)  # fmt: skip
"""The two of the random split were checked against that README; values of findings of the other four are not checked."""
