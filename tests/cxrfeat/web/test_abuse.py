"""Whatever is sent, the server answers in its own words: mutated images, and its own OpenAPI document turned against it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests import fakes

GOOD, BAD = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
OPERATIONS = ("POST /api/predict", "GET /api/model", "GET /api/examples", "GET /healthz")


@pytest.fixture(scope="module")
def operations(client: httpx.Client) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
    found: dict[str, Any] = {}
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # raises what is wrong with the document
        found[operation.label] = operation
    return found


@pytest.mark.parametrize(("label", "mode"), [*((label, GOOD) for label in OPERATIONS), (OPERATIONS[0], BAD)])
def test_the_openapi_document_holds(label: str, mode: schemathesis.GenerationMode, operations: dict[str, Any]) -> None:
    """Statuses, types and bodies are those that the document promises, for good requests and bad ones; never 500."""
    assert set(operations) == set(OPERATIONS)

    @given(operations[label].as_strategy(generation_mode=mode))
    @settings(max_examples=50 if label == OPERATIONS[0] else 5, suppress_health_check=list(HealthCheck))
    def hold(case: schemathesis.Case[Any]) -> None:
        # A schema can't say that bytes are a film, so good requests may be refused.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    hold()


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Change bytes, cut, repeat or insert; half of the time with checksums that pass, so that it reaches the decoder."""
    mutated = bytearray(data)
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(0, len(mutated)))
        match random.integers(0, 4):
            case 0:
                mutated[at] = int(random.integers(0, 256))
            case 1:
                del mutated[at : at + int(random.integers(1, 40))]
            case 2:
                mutated[at:at] = mutated[at : at + 20]
            case _:
                mutated[at:at] = random.bytes(4)
        mutated = mutated or bytearray(b"x")
    return fakes.fix_checksums(bytes(mutated)) if random.random() < 0.5 else bytes(mutated)


def test_mutated_images_never_break_it(client: httpx.Client) -> None:
    """Each is answered or refused with a reason; thousands more are tried on the decoder alone, in test_imaging.py."""
    random = np.random.default_rng(0)
    originals = [write(fakes.film(48, 40)) for _, write in fakes.LEGAL.values()]
    found: Counter[str] = Counter()
    for number in range(300):
        content = mutate(originals[number % len(originals)], random)
        response = client.post("/api/predict", content=content, headers={"Content-Type": "image/png"})
        assert response.status_code in (200, 422), content
        found[response.json().get("reason", "answered")] += 1
    assert {"answered", "corrupt", "not-png-or-jpeg"} <= set(found), "the mutations must reach the decoder"
    assert client.get("/healthz").json()["in_flight"] == 0
