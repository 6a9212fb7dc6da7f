"""Answering requests with a trained model."""

from multimodal_ai.inference.engine import Engine
from multimodal_ai.inference.requests import ArgumentSource, Call, Delta, Reply, Request

__all__ = ["ArgumentSource", "Call", "Delta", "Engine", "Reply", "Request"]
