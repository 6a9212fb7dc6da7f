"""Schemathesis against the OpenAPI description: whatever fits it or nearly fits it gets an answer that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from multimodal_ai.data.tokenizer import Tokenizer

from .conftest import Running, small_engine


@pytest.fixture(scope="module")
def brief(small_tokenizer: Tokenizer) -> Iterator[Running]:
    """A server that says little, so that many requests take little time."""
    server = Running(small_engine(small_tokenizer), max_output_tokens=4)
    yield server
    server.stop()


@pytest.mark.slow
def test_every_answer_is_one_that_is_described(brief: Running) -> None:
    """Not through schemathesis' own pytest plug-in, which pytest 9.2 breaks."""
    schema = schemathesis.openapi.from_url(f"{brief.url}/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    tried: set[str] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = operation.as_strategy(generation_mode=mode)

            @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=cases)
            def holds(case: Any) -> None:
                tried.add(case.path)
                case.call_and_validate(checks=checks)

            with contextlib.suppress(Unsatisfiable):  # without parameters nothing can be wrong
                holds()
    assert len(tried) >= 6 and brief.chat(max_tokens=2).choices


def test_errors_are_described(brief: Running) -> None:
    made = httpx.get(f"{brief.url}/openapi.json").json()
    operation = made["paths"]["/v1/chat/completions"]["post"]
    assert {"200", "400", "401", "413", "429", "503"} <= set(operation["responses"]) and "422" not in operation[
        "responses"
    ]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert {"tools", "tool_choice", "response_format", "x_execute"} <= set(
        made["components"]["schemas"][body]["properties"]
    )
