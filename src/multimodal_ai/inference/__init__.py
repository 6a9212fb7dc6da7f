"""Answering requests with a trained model."""

import sys

from multimodal_ai.inference.engine import Engine
from multimodal_ai.inference.requests import ArgumentSource, Call, Delta, Reply, Request

# Importing OpenVINO reports to its makers where this package is installed, unasked. What cannot be imported reports
# nothing; and no module of this package is imported before this line has run.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

__all__ = ["ArgumentSource", "Call", "Delta", "Engine", "Reply", "Request"]
