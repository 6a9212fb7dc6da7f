"""The front of replicas, before replicas that die when they are told to: what is repeated, and what never is."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

import httpx2 as httpx
import openai
import pytest
from starlette.types import Message

from multimodal_ai.serving import ServerConfig
from multimodal_ai.serving.config import key_hash
from multimodal_ai.serving.errors import too_busy
from multimodal_ai.serving.front import NOTES, TRIES, ReplicaLost, create_front
from multimodal_ai.serving.server import make_server

from .conftest import wait_until

CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
ASKED: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


def piece(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({**CHUNK, "choices": [choice]}).encode() + b"\n\n"


class Scripted:
    """Replicas whose tries follow a script: each a list of messages, bytes (pieces of a stream) and errors."""

    def __init__(self) -> None:
        self.script: list[list[Any]] = []
        self.asked: list[tuple[dict[str, Any], bytes]] = []
        self.ended = 0
        self.ready = 1

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        self.asked.append((scope, body))
        try:
            for step in self.script[min(len(self.asked), len(self.script)) - 1]:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, bytes):
                    yield {"type": "http.response.body", "body": step, "more_body": True}
                else:
                    yield step
        finally:
            self.ended += 1

    def running(self) -> int:
        return self.ready

    def metrics(self) -> Mapping[str, str]:
        text = '# HELP a_total A\n# TYPE a_total counter\na_total{kind="x"} 2.0\n'
        return {"one": text, "two": text}


STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}
WHOLE = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
END = {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False}
SAID = {"type": "http.response.body", "body": b'{"said": "x"}', "more_body": False}
TOLD = {"type": NOTES, "notes": {"completion_tokens": 3}, "path": "/v1/chat/completions"}
LOST = ReplicaLost("killed")


class Front:
    """A front on a port of its own."""

    def __init__(self, **settings: Any) -> None:
        self.replicas = Scripted()
        self.app = create_front(self.replicas, ServerConfig(model_name="small", **settings))
        self.server = make_server(self.app, "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="0123456789abcdef", max_retries=0, timeout=30)

    def ask(self, path: str = "chat/completions", **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json={**ASKED, **options}, timeout=30)


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Front]]:
    monkeypatch.setattr("multimodal_ai.serving.front._GRACE_SECONDS", 0.1)
    monkeypatch.setattr("multimodal_ai.serving.front._LAST_WORDS_SECONDS", 0.1)
    made: list[Front] = []

    def make(*script: list[Any], **settings: Any) -> Front:
        made.append(Front(**settings))
        made[-1].replicas.script = list(script)
        return made[-1]

    yield make
    for one in made:
        one.server.should_exit = True
        one.thread.join(30)


@pytest.mark.parametrize("lost", [[LOST], [TOLD, LOST], [TOLD, WHOLE, LOST], [STREAM, LOST]])
def test_what_nobody_has_read_is_asked_again(front: Callable[..., Front], lost: list[Any]) -> None:
    one = front(lost, [TOLD, WHOLE, SAID])
    answered = one.ask()
    assert answered.status_code == 200 and answered.json() == {"said": "x"}
    assert [body for _, body in one.replicas.asked] == [one.replicas.asked[0][1]] * 2
    scope = one.replicas.asked[0][0]
    assert json.loads(one.replicas.asked[0][1]) == ASKED
    assert scope["path"] == "/v1/chat/completions" and scope["state"]["owner"] == "127.0.0.1"
    text = httpx.get(f"{one.url}/metrics").text
    assert 'multimodal_ai_replicas_lost_total{then="retried"} 1.0' in text
    assert 'multimodal_ai_http_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert 'a_total{kind="x",replica="one"} 2.0' in text and 'a_total{kind="x",replica="two"} 2.0' in text


def test_a_stream_that_had_begun_ends_with_an_error_that_says_so(front: Callable[..., Front]) -> None:
    one = front([STREAM, piece("a"), piece("b"), LOST])
    read = []
    with pytest.raises(openai.APIError, match="lost") as caught:
        for chunk in one.client.chat.completions.create(**ASKED, stream=True):
            read.append(chunk.choices[0].delta.content)
    assert read == ["a", "b"] and caught.value.code == "replica_lost"
    assert len(one.replicas.asked) == 1
    events = list(one.client.responses.create(model="small", input="hi", stream=True))
    assert (events[-1].type, events[-1].code, events[-1].sequence_number) == ("error", "replica_lost", 2)


def test_a_reply_that_was_complete_is_sent(front: Callable[..., Front]) -> None:
    one = front([WHOLE, SAID, LOST])
    assert one.ask().json() == {"said": "x"} and len(one.replicas.asked) == 1
    one.replicas.script = [[STREAM, piece("a"), END, LOST]]
    assert [c.choices[0].delta.content for c in one.client.chat.completions.create(**ASKED, stream=True)] == ["a"]


def test_a_request_that_may_have_run_functions_is_never_sent_twice(front: Callable[..., Front]) -> None:
    one = front([TOLD, LOST], [WHOLE, SAID])
    answered = one.ask(x_execute=True)
    assert answered.status_code == 503 and answered.json()["error"]["code"] == "replica_lost"
    assert "may have done their work" in answered.json()["error"]["message"] and len(one.replicas.asked) == 1
    one.replicas.script = [[], [TOLD, LOST], [WHOLE, SAID]]
    assert one.ask("calls").status_code == 503 and len(one.replicas.asked) == 2


def test_a_request_that_takes_replicas_down_is_given_up(front: Callable[..., Front]) -> None:
    one = front([LOST])
    answered = one.ask()
    assert answered.status_code == 503 and answered.headers["retry-after"] == "1"
    assert len(one.replicas.asked) == TRIES


def test_what_replicas_refuse_and_what_takes_too_long(front: Callable[..., Front]) -> None:
    one = front([too_busy("full")], request_seconds=0.2)
    assert one.ask().status_code == 429 and len(one.replicas.asked) == 1
    one.replicas.script = [[60.0]]
    assert one.ask().status_code == 504
    one.replicas.script = [[RuntimeError("a mistake of the application's own")]]
    answered = one.ask()
    assert answered.status_code == 500 and "mistake" not in answered.text


def test_a_reader_that_never_reads_is_let_go(front: Callable[..., Front]) -> None:
    one = front([STREAM, *[piece("x" * 100_000)] * 300, END], request_seconds=0.3)
    address = one.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        body = json.dumps(ASKED).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: one.replicas.asked)
        assert sum(one.app.state.gate._active.values()) == 1
        wait_until(lambda: not sum(one.app.state.gate._active.values()), 20)


def test_a_client_that_leaves_ends_its_request(front: Callable[..., Front]) -> None:
    one = front([STREAM, piece("a"), 60.0])
    stream = one.client.chat.completions.create(**ASKED, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: one.replicas.ended == 1)


def test_keys_limits_and_draining_hold_for_all_replicas(front: Callable[..., Front]) -> None:
    keys = {"alice": key_hash("0123456789abcdef")}
    one = front([STREAM, piece("a"), 60.0], key_hashes=keys, max_concurrent_per_key=1, max_body_bytes=1000)
    assert one.ask().status_code == 401 and not one.replicas.asked
    stream = one.client.chat.completions.create(**ASKED, stream=True)
    next(iter(stream))
    assert one.replicas.asked[0][0]["state"]["owner"] == "alice"
    with pytest.raises(openai.RateLimitError):
        one.client.chat.completions.create(**ASKED)
    stream.close()
    wait_until(lambda: one.replicas.ended == 1)
    with pytest.raises(openai.APIStatusError) as caught:
        one.client.chat.completions.create(**ASKED, extra_body={"padding": "x" * 2000})
    assert caught.value.status_code == 413
    one.app.state.gate.draining = True
    with pytest.raises(openai.InternalServerError):
        one.client.chat.completions.create(**ASKED)
    assert len(one.replicas.asked) == 1


def test_ready_means_that_a_replica_takes_requests(front: Callable[..., Front]) -> None:
    one = front([WHOLE, SAID])
    assert httpx.get(f"{one.url}/ready").json() == {"status": "ready", "replicas": 1}
    one.replicas.ready = 0
    assert httpx.get(f"{one.url}/ready").status_code == 503 and httpx.get(f"{one.url}/health").status_code == 200
    one.replicas.ready, one.app.state.gate.draining = 1, True
    assert httpx.get(f"{one.url}/ready").json() == {"status": "shutting down"}
