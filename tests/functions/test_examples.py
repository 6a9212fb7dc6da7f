"""The example functions that the README and the quickstart use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimodal_ai.functions import FunctionRegistry, load_functions, validate_arguments

EXAMPLES = Path(__file__).parents[2] / "examples" / "functions.py"


@pytest.fixture
def registry(tmp_path, monkeypatch) -> FunctionRegistry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULTIMODAL_AI_LEDGER", str(tmp_path / "log.jsonl"))
    return load_functions(EXAMPLES)


def test_what_the_examples_offer(registry) -> None:
    assert {item.spec.name: item.spec.side_effect for item in registry} == {
        "log_reading": True,
        "record_payment": True,
        "list_readings": False,
    }
    log, pay, listing = registry.specs
    assert log.required == ("meter", "value", "unit") and pay.required == ("payee", "amount", "currency")
    assert listing.required == () and log.parameter_schema("unit")["enum"] == ["kWh", "m3", "L"]
    assert all(
        schema.get("description") for spec in registry.specs for schema in spec.parameters["properties"].values()
    )
    assert validate_arguments(pay, {"payee": "Ada", "amount": 12.5, "currency": "CHF"})


def test_they_append_to_the_log_and_read_it(registry, tmp_path) -> None:
    result = registry.get("log_reading").call({"meter": "E-020", "value": 5213, "unit": "kWh"})
    assert result == {"status": "ok", "meter": "E-020", "value": 5213, "unit": "kWh"}
    registry.get("record_payment").call({"payee": "Zoë", "amount": 12.5, "currency": "EUR"})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["reading", "payment"] and lines[1]["payee"] == "Zoë"
    listed = registry.get("list_readings")
    assert [entry["meter"] for entry in listed.call({})] == ["E-020"] and listed.call({"meter": "other"}) == []
