"""Gate: what every request passes before the application: identity, key, limits, log line, counts.

Plain ASGI, so that streams pass through untouched. It never reads a body and, unless asked to, logs nothing of
what users or the model say.
"""

from __future__ import annotations

import hmac
import json
import logging
import sys
import time
import uuid
from collections import Counter
from typing import Any

from prometheus_client import Counter as PrometheusCounter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multimodal_ai.serving.config import ServerConfig, key_hash
from multimodal_ai.serving.errors import ApiError, as_api_error, too_busy
from multimodal_ai.utils.logger import get_logger

NO_STATUS = 499  # the client went away before there was one
logger = get_logger(__name__)
access_log = logging.getLogger("multimodal_ai.serving.access")
access_log.propagate = False


def log_to_stderr() -> None:
    """Write access lines, one JSON object each, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.addHandler(handler)
    access_log.setLevel(logging.INFO)


def log_event(event: str, **values: Any) -> None:
    """One line of the log."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    access_log.info(json.dumps({"time": moment, "event": event, **values}, ensure_ascii=False))


class Gate:
    """See the module's docstring. `draining`: new work is refused, what has begun is finished."""

    def __init__(self, app: ASGIApp, config: ServerConfig, counted: PrometheusCounter) -> None:
        self.app, self.config, self.counted = app, config, counted
        self.draining = False
        self._active: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), NO_STATUS
        identity = uuid.uuid4().hex
        notes: dict[str, Any] = {}
        scope.setdefault("state", {}).update(notes=notes, owner="", request_id=identity)

        async def send_with_identity(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", identity.encode()))
            await send(message)

        key = ""
        counted = False
        try:
            try:
                key = self._key(scope)
                counted = self._enter(scope["path"], key)
            except ApiError as error:
                await error.response()(scope, receive, send_with_identity)
                return
            client = scope.get("client") or ("", 0)
            scope["state"]["owner"] = key or client[0]
            await self.app(scope, receive, send_with_identity)
        except Exception as error:  # a mistake of the server's own
            logger.exception("request %s failed", identity)
            if status == NO_STATUS:
                await as_api_error(error).response()(scope, receive, send_with_identity)
        finally:
            if counted:
                self._active[key] -= 1
            path = getattr(scope.get("route"), "path", "other")
            self.counted.labels(path, str(status)).inc()
            log_event(
                "request",
                id=identity,
                key=key,
                method=scope["method"],
                path=path,
                status=status,
                seconds=round(time.monotonic() - began, 4),
                **notes,
            )

    def _key(self, scope: Scope) -> str:
        """The name of the key that was given; empty where none is needed."""
        if not self.config.key_hashes or not needs_key(scope["path"]):
            return ""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = given.decode("latin-1").partition(" ")
        digest = key_hash(key.strip())
        found = ""
        for name, known in self.config.key_hashes.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        if kind.lower() != "bearer" or not found:
            raise ApiError(
                401,
                "no valid API key; send one as `Authorization: Bearer …`",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found

    def _enter(self, path: str, key: str) -> bool:
        """Count a request of a key; refuse while draining, and where the key has as many as it may."""
        if not path.startswith("/v1/"):
            return False
        if self.draining:
            raise ApiError(503, "the server is shutting down", "shutting_down", headers={"Retry-After": "5"})
        if key and self._active[key] >= self.config.max_concurrent_per_key:
            raise too_busy(f"this key has {self._active[key]} requests open already; wait for one of them")
        self._active[key] += 1
        return True


def needs_key(path: str) -> bool:
    """Whether a path is served to holders of a key only, where there are keys."""
    return path.startswith("/v1/") or path in ("/metrics", "/openapi.json")
