"""Published AUROC of the 14 findings of ChestX-ray14, by split protocol.

Results on a random split and on the official split are never ranked together, because the tasks differ: the same model
of Guendel et al. reaches 0.841 on random patients and 0.807 on the official list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cxrfeat.labels.findings import FINDINGS


class Protocol(StrEnum):
    """Rule that divides images into splits."""

    OFFICIAL = "official list"
    RANDOM = "random"


@dataclass(frozen=True)
class Result:
    """Published results on one test split.

    Attributes:
        name, year: short citation.
        protocol: split protocol; results of different protocols are never ranked together.
        source: publication from which the numbers were taken.
        mean: mean AUROC, as printed in the source.
        findings: AUROC of each finding.
        verified: True if the values of the findings were checked against the source; the means always were.
    """

    name: str
    year: int
    protocol: Protocol
    source: str
    mean: float
    findings: Mapping[str, float]
    verified: bool

    def describe(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def _result(
    name: str, year: int, protocol: Protocol, source: str, *, mean: float, values: str, verified: bool
) -> Result:
    """Build a result from its AUROCs in thousandths or ten-thousandths, in the order of the findings."""
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
        "Learning to recognize abnormalities in chest X-rays with location-aware dense networks, arXiv:1803.04565",
        mean=0.807, values="767 883 828 709 821 758 731 846 745 835 895 818 761 896", verified=False,
    ),
    _result(
        "Baltruschat et al., ResNet-38 with metadata", 2018, Protocol.OFFICIAL,
        "Comparison of deep learning approaches for multi-label chest X-ray classification, arXiv:1803.02315",
        mean=0.806, values="763 875 822 694 820 747 714 840 749 846 895 816 763 937", verified=False,
    ),
)  # fmt: skip
"""The values of both results on random splits were checked against that README; those of the other four were not."""
