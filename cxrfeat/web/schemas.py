"""Schemas of the JSON responses, also shown in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from cxrfeat import NOTICE

Share = Annotated[float, Field(ge=0, le=1)]


class ImageInfo(BaseModel):
    """Properties of the decoded image."""

    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    pixel_format: str = Field(description="format stored in the file: gray8, gray16, rgba8, monochrome1-12, …")
    preview: str | None = Field(
        description="the image as the model sees it, before it is resized for the network: a PNG in base64 of at most "
        "1,024 pixels per side; null for formats that browsers show themselves"
    )
    region: list[float] = Field(
        description="part of the image that the model receives, as left, top, right and bottom in shares of its width "
        "and height: 0, 0, 1, 1 is all of it; black bars around the image give values below 0 and above 1",
        min_length=4,
        max_length=4,
    )


class AnyFinding(BaseModel):
    """Score for the presence of at least one of the findings."""

    score: Share = Field(description="1 − Π(1 − p), which assumes independent findings: for ranking X-rays")
    threshold: Share | None = Field(description="at the operating point; null if the validation data lack a class")
    positive: bool | None = Field(description="score ≥ threshold; null without a threshold")


class Finding(BaseModel):
    """Prediction for one finding."""

    finding: str
    probability: Share = Field(description="calibrated")
    threshold: Share | None = Field(description="at the operating point; null if the validation data lack a class")
    positive: bool = Field(description="probability ≥ threshold; false without a threshold")
    prevalence: Share | None = Field(description="share of training X-rays with the finding; null if not recorded")
    heat_map: list[list[float]] | None = Field(
        description="first-order contribution of each cell to the logit, top row first; cells divide the region that "
        "the model receives evenly; values above 0 are evidence for the finding, values below 0 against it; null if "
        "the backbone's embedding is not the mean of a feature map"
    )


class Assumption(BaseModel):
    """An input of the head that was imputed, read from the file, or ignored."""

    input: str = Field(description="age or sex")
    value: float | None = Field(
        description="value in use: age in years, or share of men; null if the head does not use the input"
    )
    text: str = Field(description="the assumption as a sentence")


class Answer(BaseModel):
    """Prediction for one X-ray."""

    notice: str = NOTICE
    extractor: str = Field(description="fingerprint of backbone, weights and preprocessing")
    head: str = Field(description="fingerprint of the head")
    precision: str = Field(description="precision of the backbone: fp32, bf16 or int8")
    operating_point: str = Field(description="rule that chose the thresholds on validation data")
    film: ImageInfo
    any_finding: AnyFinding
    findings: list[Finding] = Field(description="all labels of the head, in the order of its label set", min_length=1)
    assumptions: list[Assumption]


class AurocInterval(BaseModel):
    """Area under the ROC curve; every field is null if it is undefined or not recorded."""

    auroc: Share | None
    low: Share | None = Field(description="lower limit of the 95 % interval over patients; null without an interval")
    high: Share | None = Field(description="upper limit of the 95 % interval over patients; null without an interval")
    positives: int | None = Field(description="test X-rays with the finding")


class FindingCard(BaseModel):
    """Training data and test performance of the head for one finding."""

    finding: str
    train_positives: int | None = Field(description="training X-rays with the finding; null if not recorded")
    prevalence: Share | None = Field(description="train_positives as a share of all training X-rays")
    threshold: Share | None = Field(description="at the operating point; null if the validation data lack a class")
    test: AurocInterval = Field(description="AUROC on the test split")


class ModelCard(BaseModel):
    """Backbone and head of this service, their training data and their measured performance."""

    notice: str = NOTICE
    backbone: str
    extractor: str = Field(description="fingerprint of backbone, weights and preprocessing")
    head: str = Field(description="fingerprint of the head")
    precision: str = Field(description="precision of the backbone: fp32, bf16 or int8")
    operating_point: str = Field(description="rule that chose the thresholds on validation data")
    heat_maps: bool = Field(description="whether predictions have heat maps: not for class tokens, for example")
    inputs: list[str] = Field(description="inputs of the head")
    hidden: list[int] = Field(description="widths of the head's hidden layers")
    films: dict[str, int] = Field(description="number of X-rays by split; empty if not recorded")
    patients: dict[str, int] = Field(description="number of patients by split; empty if not recorded")
    calibrated: int | None = Field(
        description="number of findings calibrated on the validation split; null if not recorded"
    )
    label_set: str = Field(description="name of the label set")
    noun: Literal["finding", "label"] = Field(description="what the entries of findings are called on the page")
    findings: list[FindingCard] = Field(description="all labels of the head, in the order of its label set")
    mean: AurocInterval = Field(description="mean AUROC over the findings with a defined AUROC")
    source: str = Field(description="sentence that names the data behind the AUROCs")
    version: str = Field(description="version of cxrfeat")


class Example(BaseModel):
    """An example X-ray: a synthetic phantom, drawn by this program, that shows no patient."""

    name: str
    title: str
    url: str
    age: int = Field(description="years")
    sex: Literal["M", "F"]


class Health(BaseModel):
    """Status of the process. A response implies that the process is ready."""

    status: Literal["ok"] = "ok"
    head: str = Field(description="fingerprint of the head")
    in_flight: int = Field(description="prediction requests that this process is handling now")
    answered: int = Field(description="X-rays that this process has scored since its start")


class ProblemDetails(BaseModel):
    """Cause of a failed request. Source: RFC 9457, Problem Details for HTTP APIs."""

    type: str = Field(description="urn:cxrfeat: followed by the reason")
    title: str = Field(description="sentence for the visitor")
    status: int
    detail: str = Field(description="expected and actual value, for debugging")
    reason: str = Field(description="quarantine code of an invalid image, or code of the request error")
