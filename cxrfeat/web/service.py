"""One film in, one answer out: what is loaded once a process. No HTTP in here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Precision
from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.heatmap import heat_maps
from cxrfeat.head.inputs import AGE, SEX, SEX_CODES
from cxrfeat.head.predictor import Predictor
from cxrfeat.head.thresholds import DEFAULT_RULE
from cxrfeat.images import png_jpeg, preprocess
from cxrfeat.labels.findings import ANY_FINDING
from cxrfeat.web.model_card import make_card, read_evaluation
from cxrfeat.web.schemas import Answer, AnyFinding, Assumption, Finding, ImageInfo, ModelCard


@dataclass(frozen=True)
class ServiceSettings:
    """What is to be served; it travels to other processes.

    Attributes:
        head: folder or URI of the bundle.
        weights: of the backbone: a path, a name, or None for the backbone's published ones.
        backbone: name in the registry.
        precision: of the network.
        operating_point: rule of the thresholds.
        evaluation: metrics.json for the model card, or its folder.
        threads: of torch in this process, at least 1.
    """

    head: str
    weights: str | None = None
    backbone: str = "resnet50"
    precision: Precision = Precision.AUTO
    operating_point: str = DEFAULT_RULE
    evaluation: Path | None = None
    threads: int = 1


class Service:
    """A frozen network, a head and its model card.

    Attributes:
        card: what is known of the head.
    """

    def __init__(self, encoder: FrozenEncoder, predictor: Predictor, card: ModelCard) -> None:
        """Put the parts together.

        Raises:
            BundleError: the head was trained on another extractor's embeddings.
        """
        predictor.bundle.check_extractor(encoder.fingerprint)
        self.card = card
        self._encoder = encoder
        self._predictor = predictor

    def answer(self, data: bytes, *, age: float | None = None, sex: str | None = None) -> Answer:
        """Answer for one film, as the batch jobs do.

        Args:
            data: bytes of the file.
            age: years, 0 to 123, if known.
            sex: M or F, if known.

        Raises:
            ImageError: the file can't be a radiograph.
        """
        film = png_jpeg.decode(data)
        model_input = preprocess.to_model_input(film.pixels)
        embeddings, feature_maps = self._encoder.embed_with_maps(model_input[np.newaxis])
        covariates = {
            AGE: np.array([np.nan if age is None else age], dtype=np.float32),
            SEX: np.array([np.nan if sex is None else SEX_CODES[sex]], dtype=np.float32),
        }
        predictions = self._predictor.predict(embeddings, covariates)
        row = {name: column[0].as_py() for name, column in self._predictor.to_columns(predictions).items()}
        maps = heat_maps(self._predictor.gradients(embeddings, covariates), feature_maps)[0]
        height, width = film.pixels.shape
        return Answer(
            extractor=self.card.extractor,
            head=self.card.head,
            precision=self.card.precision,
            operating_point=self.card.operating_point,
            film=ImageInfo(width=width, height=height, pixel_format=film.pixel_format),
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
                    heat_map=heat_map.tolist(),
                )
                for known, heat_map in zip(self.card.findings, maps, strict=True)
            ],
            assumptions=[*self._assume(row["imputed"], given={AGE: age, SEX: sex})],
        )

    def _assume(self, imputed: Collection[str], given: Mapping[str, object]) -> Iterator[Assumption]:
        """Yield what stood in for a missing input, and which given ones the head has no use for."""
        stand_ins = self._predictor.bundle.inputs.imputed
        for name, value in given.items():
            if name in imputed:
                text = _STAND_IN[name](stand_ins[name])
                yield Assumption(input=name, value=stand_ins[name], text=text)
            elif value is not None and name not in stand_ins:
                yield Assumption(
                    input=name, value=None, text=f"This head does not use {name}: what was given is ignored."
                )


_STAND_IN: Mapping[str, Callable[[float], str]] = {
    AGE: lambda years: f"Age was not given: the mean of the training films stands in, {years:.0f} years.",
    SEX: lambda share: (
        f"Sex was not given: the share of men in the training films stands in, {share * 100:.0f}\u00a0%."
    ),
}


def open_service(settings: ServiceSettings) -> Service:
    """Load what answers.

    Raises:
        CxrfeatError: a bundle, weights or an evaluation that can't be used, or that don't belong together.
    """
    predictor = Predictor(load_bundle(settings.head), settings.operating_point)
    evaluation = None if settings.evaluation is None else read_evaluation(settings.evaluation)
    predictor.bundle.check_backbone(settings.backbone)  # before other weights are downloaded in vain
    weights = find_weights(get_backbone(settings.backbone), settings.weights)
    # Films come one by one: in batches of one, or padding would take the time of seven more.
    spec = EncoderSpec(settings.backbone, weights, settings.precision, batch_size=1)
    torch.set_num_threads(settings.threads)
    encoder = FrozenEncoder(spec)
    card = make_card(predictor.bundle, encoder.precision, settings.operating_point, evaluation)
    return Service(encoder, predictor, card)
