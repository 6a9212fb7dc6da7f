"""Functions for a model to call: a meter log and a payment log, each line one JSON object in a file.

    multimodal-ai ask --image meter.png "Log this reading" --functions examples/functions.py --approve

The file is `function_log.jsonl` in the current folder, or the one that MULTIMODAL_AI_LEDGER names.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from multimodal_ai.functions import function


def _log_path() -> Path:
    return Path(os.environ.get("MULTIMODAL_AI_LEDGER", "function_log.jsonl"))


def _append(kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    line = {"kind": kind, **entry, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    with _log_path().open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return {"status": "ok", **entry}


@function(side_effect=True)
def log_reading(meter: str, value: int, unit: Literal["kWh", "m3", "L"]) -> dict[str, Any]:
    """Record the reading of an electricity, gas or water meter.

    Args:
        meter: Identifier of the meter, as printed on its plate.
        value: The reading shown on the display.
        unit: Unit of the reading.
    """
    return _append("reading", {"meter": meter, "value": value, "unit": unit})


@function(side_effect=True)
def record_payment(payee: str, amount: float, currency: Literal["EUR", "USD", "GBP"]) -> dict[str, Any]:
    """Record a payment from a payment slip.

    Args:
        payee: Who receives the money.
        amount: Amount of money to pay.
        currency: Currency of the amount.
    """
    return _append("payment", {"payee": payee, "amount": amount, "currency": currency})


@function(read_only=True)
def list_readings(meter: str | None = None) -> list[dict[str, Any]]:
    """List the meter readings recorded so far, newest last.

    Args:
        meter: Only readings of this meter.
    """
    path = _log_path()
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [entry for entry in entries if entry["kind"] == "reading" and meter in (None, entry["meter"])][-50:]
