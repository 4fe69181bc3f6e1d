"""What the service says, as it stands in its JSON and in its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from cxrfeat import NOTICE

Share = Annotated[float, Field(ge=0, le=1)]


class ImageInfo(BaseModel):
    """The film as it was decoded; the model sees the whole of it, squeezed to 224 × 224 pixels."""

    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    pixel_format: str = Field(description="as the file stores it: gray8, gray16, rgba8, …")


class AnyFinding(BaseModel):
    """That at least one of the 14 is there."""

    score: Share = Field(description="1 − Π(1 − p), as if findings were independent: it ranks films")
    threshold: Share | None = Field(description="null where validation lacked a class")
    positive: bool | None = Field(description="score ≥ threshold; null without a threshold")


class Finding(BaseModel):
    """One finding on this film."""

    finding: str
    probability: Share = Field(description="calibrated")
    threshold: Share | None = Field(description="of the operating point; null where validation lacked a class")
    positive: bool = Field(description="probability ≥ threshold; false without a threshold")
    prevalence: Share | None = Field(description="share of training films with it; null where the head has no record")
    heat_map: list[list[float]] = Field(
        description="parts of the logit's first-order change, one a cell, top row first; the film is cut evenly into "
        "the cells; above 0 speaks for the finding, below 0 against it"
    )


class Assumption(BaseModel):
    """An input of the head that was not taken as given."""

    input: str = Field(description="age or sex")
    value: float | None = Field(
        description="what stood in: age in years, share of men; null: the head has no such input"
    )
    text: str = Field(description="the same in a sentence")


class Answer(BaseModel):
    """What the head says of one film."""

    notice: str = NOTICE
    extractor: str = Field(description="fingerprint of backbone, weights and preprocessing")
    head: str = Field(description="fingerprint of the head")
    precision: str = Field(description="of the network: fp32 or bf16")
    operating_point: str = Field(description="rule that chose the thresholds on validation")
    film: ImageInfo
    any_finding: AnyFinding
    findings: list[Finding] = Field(description="all 14, in the order of ChestX-ray14", min_length=14, max_length=14)
    assumptions: list[Assumption]


class AurocInterval(BaseModel):
    """An area under the ROC curve; all of it is null where it is not defined or not recorded."""

    auroc: Share | None
    low: Share | None = Field(description="of the 95 % interval over patients; null where there is none, like high")
    high: Share | None
    positives: int | None = Field(description="films with the finding that it is computed from")


class FindingCard(BaseModel):
    """What is known of the head about one finding."""

    finding: str
    train_positives: int | None = Field(description="training films with it; null where the head has no record")
    prevalence: Share | None = Field(description="train_positives as a share of training films")
    threshold: Share | None = Field(description="of the operating point")
    test: AurocInterval = Field(description="on the test split")


class ModelCard(BaseModel):
    """What answers here, what it was trained on and how good it is."""

    notice: str = NOTICE
    backbone: str
    extractor: str = Field(description="fingerprint of backbone, weights and preprocessing")
    head: str = Field(description="fingerprint of the head")
    precision: str = Field(description="of the network: fp32 or bf16")
    operating_point: str = Field(description="rule that chose the thresholds on validation")
    inputs: list[str] = Field(description="what the head is fed")
    hidden: list[int] = Field(description="widths of the head's hidden layers")
    films: dict[str, int] = Field(description="by split; empty where the head has no record")
    patients: dict[str, int] = Field(description="by split; empty where the head has no record")
    calibrated: int | None = Field(
        description="findings whose probabilities were fitted to films of val; null where the head has no record"
    )
    findings: list[FindingCard] = Field(description="all 14, in the order of ChestX-ray14")
    mean: AurocInterval = Field(description="of the AUROC over the findings that have one")
    source: str = Field(description="where the AUROCs come from, in a sentence")
    version: str = Field(description="of cxrfeat")


class Example(BaseModel):
    """A film for visitors without one: a phantom, drawn by this program, of nobody."""

    name: str
    title: str
    url: str
    age: int = Field(description="years")
    sex: Literal["M", "F"]


class Health(BaseModel):
    """For operators. The process is ready, or it would not answer."""

    status: Literal["ok"] = "ok"
    head: str = Field(description="fingerprint of the head")
    in_flight: int = Field(description="requests for a prediction that this process is at, this moment")
    answered: int = Field(description="films that this process has answered since its start")


class ProblemDetails(BaseModel):
    """Why there is no answer. Source: RFC 9457, Problem Details for HTTP APIs."""

    type: str = Field(description="urn:cxrfeat: and the reason")
    title: str = Field(description="in a sentence for whoever holds the film")
    status: int
    detail: str = Field(description="for whoever has to find out: what was expected, and what was there")
    reason: str = Field(description="the quarantine's code of a refused film, or the request's fault")
