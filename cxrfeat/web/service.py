"""Prediction service for single images, loaded once per process and independent of HTTP."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import check_backbone, find_weights, parse_fingerprint
from cxrfeat.device import Engine, Precision
from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.heatmap import heat_maps
from cxrfeat.head.inputs import AGE, SEX, SEX_CODES
from cxrfeat.head.predictor import Predictor
from cxrfeat.head.thresholds import DEFAULT_RULE
from cxrfeat.images import preprocess
from cxrfeat.images.decode import decode_image
from cxrfeat.images.decoded_image import Pixels
from cxrfeat.images.header import NO_HEADER
from cxrfeat.labels.findings import ANY_FINDING
from cxrfeat.web.model_card import make_card, read_evaluation
from cxrfeat.web.schemas import Answer, AnyFinding, Assumption, Finding, ImageInfo, ModelCard

PREVIEW_SIDE = 1024
"""Longest side in pixels of the preview of an image that browsers cannot show."""


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of a service; picklable, since worker processes receive them.

    Attributes:
        head: folder or URI of the bundle.
        weights: backbone weights: a path, a name, or None for the published weights.
        backbone: name in the registry; None for that of the head.
        precision: precision of the backbone.
        engine: library that runs the backbone; None for torch, or for openvino if the backbone is quantised.
        operating_point: threshold rule.
        evaluation: metrics.json for the model card, or its folder.
        threads: number of torch threads per process, at least 1.
    """

    head: str
    weights: str | None = None
    backbone: str | None = None
    precision: Precision = Precision.AUTO
    operating_point: str = DEFAULT_RULE
    evaluation: Path | None = None
    threads: int = 1
    engine: Engine | None = None


class Service:
    """A frozen backbone, a head and its model card.

    Attributes:
        card: model card of the head.
    """

    def __init__(self, encoder: FrozenEncoder, predictor: Predictor, card: ModelCard) -> None:
        """Combine an encoder, a predictor and a model card.

        Raises:
            BundleError: the head was trained on embeddings of another extractor.
        """
        predictor.bundle.check_extractor(encoder.fingerprint)
        self.card = card
        self._encoder = encoder
        self._predictor = predictor

    def predict(self, data: bytes, *, age: float | None = None, sex: str | None = None) -> Answer:
        """Score one image with the same steps as the batch jobs.

        Args:
            data: content of a PNG, JPEG or DICOM file.
            age: age in years, 0 to 123; None takes that of a DICOM header, if any.
            sex: M or F; None takes that of a DICOM header, if any.

        Raises:
            ImageError: the file is not a radiograph.
        """
        image = decode_image(data)
        model_input = preprocess.to_model_input(image.pixels, self._encoder.input)  # (size, size) uint8
        embeddings, feature_maps = self._embed(model_input[np.newaxis])  # (1, D), (1, D, h, w) or None
        header = image.header or NO_HEADER
        stated = {AGE: header.age_years if age is None else None, SEX: header.sex if sex is None else None}
        age = header.age_years if age is None else age
        sex = header.sex if sex is None else sex
        covariates = {
            AGE: np.array([np.nan if age is None else age], dtype=np.float32),
            SEX: np.array([np.nan if sex is None else SEX_CODES[sex]], dtype=np.float32),
        }
        predictions = self._predictor.predict(embeddings, covariates)
        row = {name: column[0].as_py() for name, column in self._predictor.to_columns(predictions).items()}
        maps: list[Any] = [None] * len(self.card.findings)
        if feature_maps is not None:
            gradients = self._predictor.gradients(embeddings, covariates)
            maps = heat_maps(gradients, feature_maps)[0].tolist()  # (K, h, w)
        height, width = image.pixels.shape
        return Answer(
            extractor=self.card.extractor,
            head=self.card.head,
            precision=self.card.precision,
            operating_point=self.card.operating_point,
            film=ImageInfo(
                width=width,
                height=height,
                pixel_format=image.pixel_format,
                preview=None if image.header is None else _draw_preview(image.pixels),
                region=list(preprocess.find_region(width, height, self._encoder.input.fit)),
            ),
            any_finding=AnyFinding(
                score=row[ANY_FINDING],
                threshold=self._predictor.bundle.thresholds[self.card.operating_point][ANY_FINDING],
                positive=row["any_finding_positive"],
            ),
            findings=[
                Finding(
                    finding=known.finding,
                    probability=row[f"probability_{known.finding}"],
                    threshold=known.threshold,
                    positive=known.finding in row["positives"],
                    prevalence=known.prevalence,
                    heat_map=heat_map,
                )
                for known, heat_map in zip(self.card.findings, maps, strict=True)
            ],
            assumptions=[
                *self._list_assumptions(row["imputed"], given={AGE: age, SEX: sex}),
                *self._list_stated(stated),
            ],
        )

    def _embed(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the embeddings, and the feature maps where the embeddings are their means."""
        return self._encoder.embed_with_maps(inputs) if self._encoder.has_maps else (self._encoder.embed(inputs), None)

    def _list_assumptions(self, imputed: Collection[str], given: Mapping[str, object]) -> Iterator[Assumption]:
        """Yield the imputed values of missing inputs and the given inputs that the head ignores."""
        imputed_values = self._predictor.bundle.inputs.imputed
        for name, value in given.items():
            if name in imputed:
                mean = imputed_values[name]
                yield Assumption(input=name, value=mean, text=_IMPUTATION_TEXTS[name](mean))
            elif value is not None and name not in imputed_values:
                text = f"This head does not use {name}: the given value is ignored."
                yield Assumption(input=name, value=None, text=text)

    def _list_stated(self, stated: Mapping[str, float | str | None]) -> Iterator[Assumption]:
        """Yield the inputs of the head that were read from the file."""
        for name, value in stated.items():
            if value is not None and name in self._predictor.bundle.inputs.imputed:
                number = float(value) if isinstance(value, float) else SEX_CODES[value]
                yield Assumption(input=name, value=number, text=_STATEMENT_TEXTS[name](number))


def _draw_preview(pixels: Pixels) -> str:
    """Return an image as a PNG in base64, 8 bits, with at most :data:`PREVIEW_SIDE` pixels per side."""
    shown = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(shown)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


_STATEMENT_TEXTS: Mapping[str, Callable[[float], str]] = {
    AGE: lambda years: f"Age is that of the file: {years:.0f} years.",
    SEX: lambda code: f"Sex is that of the file: {'male' if code else 'female'}.",
}

_IMPUTATION_TEXTS: Mapping[str, Callable[[float], str]] = {
    AGE: lambda years: f"Age is not given. The mean age in the training data, {years:.0f} years, is used.",
    SEX: lambda share: f"Sex is not given. The share of men in the training data, {share * 100:.0f}\u00a0%, is used.",
}


def open_service(settings: ServiceSettings) -> Service:
    """Load the backbone, the head and the model card of a service.

    Raises:
        CxrfeatError: the bundle, the weights or the evaluation are invalid or do not match each other.
    """
    predictor = Predictor(load_bundle(settings.head), settings.operating_point)
    evaluation = None if settings.evaluation is None else read_evaluation(settings.evaluation)
    name, _, shape = parse_fingerprint(predictor.bundle.extractor)
    size, fit = shape or (None, None)
    backbone = get_backbone(settings.backbone or name).with_input(size, fit)
    check_backbone(backbone, predictor.bundle.extractor)  # fails before the wrong weights are downloaded
    weights = find_weights(backbone, settings.weights)
    # Images arrive singly: with batch size 1, the encoder does not pad each to a batch of 16.
    spec = EncoderSpec(
        backbone.name, weights, settings.precision, batch_size=1, input_size=size, fit=fit, engine=settings.engine
    )
    torch.set_num_threads(settings.threads)
    encoder = FrozenEncoder(spec)
    card = make_card(
        predictor.bundle, encoder.precision, settings.operating_point, evaluation, heat_maps=encoder.has_maps
    )
    return Service(encoder, predictor, card)
