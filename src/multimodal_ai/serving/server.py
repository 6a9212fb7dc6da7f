"""Running the application: one process, one event loop, one engine, until SIGTERM.

SIGTERM and Ctrl-C drain: no new connections and no new work, `/ready` says so at once, replies that have begun are
finished within `drain_seconds`, then the process ends. A second signal ends it at once.
"""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from multimodal_ai.serving.gate import log_event, log_to_stderr

HEADER_BYTES = 32 << 10


class _Server(uvicorn.Server):
    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.gate.draining = True
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, host: str, port: int, log_level: str = "warning") -> uvicorn.Server:
    """A server for an application that `create_app` made; port 0 takes a free one."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="h11",
        ws="none",
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(app.state.config.drain_seconds) or 1,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    return _Server(app, config)


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until a signal, with JSON lines on stderr. Blocks. Raises OSError where the address cannot be taken."""
    log_to_stderr()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listener:
        shown, taken = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        log_event("started", model=app.state.config.model_name, url=f"http://{shown}:{taken}/v1")
        make_server(app, host, port).run([listener])
