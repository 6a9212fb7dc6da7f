"""Replicas of the application over Ray Serve, on one machine or many. Needs the extra `ray`.

Ray starts them, adds and removes them by load, replaces those that die, and picks one for each request; `front` is
the address before them. A replica is the same application that `multimodal-ai serve` runs, without its gate: ASGI
messages travel instead of HTTP. Nothing is reported to Ray's makers, and what was started here is ended here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.types import Message

from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.errors import too_busy
from multimodal_ai.serving.front import NOTES, ReplicaLost, create_front
from multimodal_ai.serving.server import serve

Build = Callable[[contextlib.ExitStack], FastAPI]
_METRICS_SECONDS = 2.0  # between two reports of a replica; after five without one it is forgotten
_OBJECT_STORE_BYTES = 512 << 20  # requests with images pass through it


def serve_replicas(build: Build, config: ServerConfig, host: str, port: int) -> None:
    """Start replicas, serve them until a signal, and end them. Blocks.

    build: makes the application in a replica; it must be picklable, and what it opens in the stack is closed with
    the replica. Raises ValueError without Ray and where no replica can start, OSError for the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.serve
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; run: pip install 'multimodal-ai[serve,ray]'") from None

    own = not config.ray.address
    before = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if own:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    ray.init(address=config.ray.address or "local", **options)
    signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place
    try:
        replicas = RayReplicas(build, config)
        try:
            serve(create_front(replicas, config), host, port)
        finally:
            if not own:
                replicas.close()
    finally:
        ray.shutdown()  # with all processes, where they were started here


class RayReplicas:
    """The replicas as the front sees them. Starting waits for the first ones."""

    def __init__(self, build: Build, config: ServerConfig) -> None:
        import ray
        from ray import serve as ray_serve

        wanted = config.ray
        self.name = f"multimodal_ai.{config.model_name}"
        self._board = ray.remote(num_cpus=0, max_restarts=-1)(_board_class()).remote()
        waiting = config.max_waiting
        deployment = ray_serve.deployment(
            _Replica,
            name="replica",
            max_ongoing_requests=config.max_running + waiting,
            max_queued_requests=waiting,
            autoscaling_config={
                "min_replicas": wanted.min_replicas,
                "max_replicas": wanted.max_replicas,
                "target_ongoing_requests": wanted.target_ongoing_requests or config.max_running,
                "upscale_delay_s": wanted.upscale_seconds,
                "downscale_delay_s": wanted.downscale_seconds,
            },
            ray_actor_options={"num_cpus": wanted.cpus, "num_gpus": wanted.gpus},
            graceful_shutdown_timeout_s=config.drain_seconds,
            health_check_period_s=2.0,
            max_constructor_retry_count=3,
        )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        ray_serve.start(proxy_location="Disabled")
        bound = deployment.bind(build, self._board)
        try:
            handle = ray_serve.run(bound, name=self.name, route_prefix=None)
        except RuntimeError as error:
            status = ray_serve.status().applications.get(self.name)
            said = [deployment.message.strip() for deployment in status.deployments.values()] if status else []
            self.close()
            cause = said[0].splitlines()[-1] if said and said[0] else str(error)  # the end of a traceback
            raise ValueError(f"no replica could start: {cause}") from None
        self._handle = handle.options(method_name="answer", stream=True)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        """Have a replica answer. Raises ReplicaLost, and ApiError where all are full."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import BackPressureError, RayServeException

        response = self._handle.remote(scope, body)
        try:
            async for messages in response:
                for message in messages:
                    yield message
        except BackPressureError:
            raise too_busy("the server is full: too many requests wait; try again in a second") from None
        except RayTaskError:  # a mistake of the application's own
            raise
        except (RayError, RayServeException) as error:
            raise ReplicaLost(str(error)) from error
        finally:
            response.cancel()

    def running(self) -> int:
        """Replicas that take requests. Blocks for a moment."""
        from ray import serve as ray_serve
        from ray.serve.schema import ReplicaState

        application = ray_serve.status().applications.get(self.name)
        if application is None:
            return 0
        states = [deployment.replica_states for deployment in application.deployments.values()]
        return sum(counts.get(ReplicaState.RUNNING, 0) for counts in states)

    def metrics(self) -> Mapping[str, str]:
        """The metrics of each replica by its name, at most a few seconds old. Blocks for a moment."""
        import ray

        return ray.get(self._board.read.remote(), timeout=5)

    def close(self) -> None:
        """End the replicas."""
        import ray
        from ray import serve as ray_serve

        ray_serve.delete(self.name)
        ray.kill(self._board)


def _board_class() -> type:
    """The class of an actor on which replicas write their metrics.

    Made here, so that it travels by value: its process then loads neither this package nor torch.
    """
    oldest = 5 * _METRICS_SECONDS

    class Board:
        def __init__(self) -> None:
            self._texts: dict[str, tuple[float, str]] = {}

        def write(self, replica: str, text: str) -> None:
            self._texts[replica] = (time.monotonic(), text)

        def read(self) -> dict[str, str]:
            now = time.monotonic()
            self._texts = {name: entry for name, entry in self._texts.items() if now - entry[0] <= oldest}
            return {name: text for name, (_, text) in sorted(self._texts.items())}

    return Board


class _Replica:
    """One replica: the application in a process of Ray's."""

    def __init__(self, build: Build, board: Any) -> None:
        from ray import serve as ray_serve

        self._stack = contextlib.ExitStack()
        self._app = build(self._stack)
        self._stack.callback(self._app.state.scheduler.close)
        name = ray_serve.get_replica_context().replica_id.unique_id
        threading.Thread(target=self._report, args=(name, board), name="metrics", daemon=True).start()

    def _report(self, name: str, board: Any) -> None:
        import ray

        while self._app.state.scheduler.alive:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(board.write.remote(name, self._app.state.metrics.text().decode()))
            time.sleep(_METRICS_SECONDS)

    def check_health(self) -> None:
        """Ray replaces a replica for which this fails."""
        if not self._app.state.scheduler.alive:
            raise RuntimeError("the thread that owns the model has ended")

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
        """The messages of a response, as many at a time as there are. Whoever stops reading ends the request."""
        notes: dict[str, Any] = {}
        scope = {**scope, "app": self._app, "state": {**scope["state"], "notes": notes}}
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        bodies = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if bodies:
                return bodies.pop()
            await asyncio.Event().wait()  # a client that leaves cancels the task
            raise AssertionError

        async def run() -> None:
            try:
                await self._app.state.gate.app(scope, receive, queue.put)
            finally:
                queue.put_nowait(None)

        task = asyncio.create_task(run())
        try:
            ended = False
            while not ended:
                found = [await queue.get()]
                while not queue.empty():
                    found.append(queue.get_nowait())
                ended = found[-1] is None
                told = {"type": NOTES, "notes": notes, "path": getattr(scope.get("route"), "path", "other")}
                yield [told, *(message for message in found if message is not None)]
            await task
        finally:
            task.cancel()

    def __del__(self) -> None:  # how Ray Serve tells a replica that it is over
        self._stack.close()
