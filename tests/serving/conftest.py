"""A real server on loopback over a small random model, and the real client."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions import FunctionRegistry
from multimodal_ai.inference import Engine
from multimodal_ai.serving import ServerConfig, create_app
from multimodal_ai.serving.server import make_server

from ..conftest import SMALL_PROCESSING, build_model

LOG_READING = {
    "type": "function",
    "function": {
        "name": "log_reading",
        "description": "Store the reading of a meter",
        "parameters": {
            "type": "object",
            "properties": {"meter": {"enum": ["garden", "kitchen"]}, "value": {"type": "integer", "maximum": 9999}},
            "required": ["meter", "value"],
        },
    },
}
GET_TIME = {"type": "function", "function": {"name": "get_time", "description": "The time of day"}}


def data_url(width: int = 24, height: int = 16, colour: str = "red", format: str = "PNG") -> str:
    """A picture of one colour as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def small_engine(tokenizer: Tokenizer) -> Engine:
    return Engine(build_model(tokenizer), tokenizer, SMALL_PROCESSING)


def save_engine(engine: Engine, folder: Path) -> Path:
    """Write an engine as training does."""
    engine.model.save_pretrained(folder)
    engine.tokenizer.save(folder)
    engine.processing.save(folder)
    return folder


class Running:
    """A server that runs in a thread of this process, and clients of it."""

    def __init__(self, engine: Engine, functions: FunctionRegistry | None = None, **settings: Any) -> None:
        self.engine = engine
        self.config = ServerConfig(model_name="small", **settings)
        self.app = create_app(engine, self.config, functions)
        self.server = make_server(self.app, "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.port: int = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = self.with_key("none")
        self.scheduler = self.app.state.scheduler

    def with_key(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def chat(self, content: Any = "hi", **options: Any) -> Any:
        """One chat completion of one user message."""
        messages = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(**{"model": "small", "messages": messages, **options})

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.client.close()


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def running(small_tokenizer: Tokenizer) -> Iterator[Running]:
    """A server with the default limits, for all tests of a module."""
    server = Running(small_engine(small_tokenizer))
    yield server
    server.stop()


@pytest.fixture
def start(small_tokenizer: Tokenizer) -> Iterator[Callable[..., Running]]:
    """`start(max_waiting=1, …)`: a server of one's own."""
    servers: list[Running] = []

    def make(functions: FunctionRegistry | None = None, **settings: Any) -> Running:
        servers.append(Running(small_engine(small_tokenizer), functions, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
