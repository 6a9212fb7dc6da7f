"""The OpenAI-compatible server."""

from multimodal_ai.serving.app import create_app
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.server import serve

__all__ = ["ServerConfig", "create_app", "serve"]
