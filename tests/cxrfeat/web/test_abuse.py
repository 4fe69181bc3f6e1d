"""Hostile input: mutated images, and requests generated from the OpenAPI document."""

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
    """Statuses, types and bodies match the document, for valid and invalid requests; never 500."""
    assert set(operations) == set(OPERATIONS)

    @given(operations[label].as_strategy(generation_mode=mode))
    @settings(max_examples=50 if label == OPERATIONS[0] else 5, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case[Any]) -> None:
        # A schema cannot express that bytes are a radiograph, so valid requests may be refused.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Change, cut, repeat or insert bytes; fix the checksums half of the time, so that the decoder is reached."""
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


@pytest.mark.slow
def test_mutated_images_never_cause_a_server_error(client: httpx.Client) -> None:
    """Each is scored or refused with a reason; test_decode.py runs thousands more on the decoder alone."""
    random = np.random.default_rng(0)
    originals = [write(fakes.gray_image(48, 40)) for _, write in fakes.LEGAL.values()]
    found: Counter[str] = Counter()
    for number in range(300):
        content = mutate(originals[number % len(originals)], random)
        response = client.post("/api/predict", content=content, headers={"Content-Type": "image/png"})
        assert response.status_code in (200, 422), content
        found[response.json().get("reason", "answered")] += 1
    assert {"answered", "corrupt", "not-png-or-jpeg"} <= set(found), "the mutations must reach the decoder"
    assert client.get("/healthz").json()["in_flight"] == 0
