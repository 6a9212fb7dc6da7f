"""The application: routes of the OpenAI API over one scheduler, and the server's own.

Endpoints read, hand to the scheduler and render; nothing here touches the model. Every error leaves in OpenAI's
shape. The application can be mounted or served by anything that speaks ASGI.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import Counter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from multimodal_ai import __version__
from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.functions.canonical import short_json
from multimodal_ai.functions.registry import FunctionRegistry, RegisteredFunction
from multimodal_ai.inference.engine import Engine
from multimodal_ai.inference.scheduler import Scheduler
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.endpoints import api_router, check_model
from multimodal_ai.serving.errors import ApiError
from multimodal_ai.serving.gate import Gate
from multimodal_ai.serving.metrics import ServerMetrics
from multimodal_ai.serving.page_files import add_page

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    for status, text in (
        (400, "The request cannot be used; the message says what to change"),
        (401, "No valid API key"),
        (404, "There is no such model"),
        (408, "The body did not arrive in time"),
        (413, "The body is too large"),
        (429, "The server or the key is at its limit; Retry-After says when to try again"),
        (503, "The server is shutting down"),
        (504, "The reply was not complete in time"),
    )
}


def create_app(
    engine: Engine, config: ServerConfig | None = None, functions: FunctionRegistry | None = None
) -> FastAPI:
    """The application for an engine, which from now on belongs to it: nobody else may use it.

    functions: those that `x_execute` may run here; none without. Its state holds `config`, `scheduler`, `metrics`,
    `functions` and `gate`.
    """
    config = config or ServerConfig()
    limited = engine.encoder.images.config
    bounds = {
        "max_pixels": min(limited.max_pixels, config.max_image_pixels),
        "max_bytes": min(limited.max_bytes, config.max_image_bytes),
    }
    engine.encoder.images = ImageProcessor(limited.model_copy(update=bounds))
    engine.cache.max_bytes = config.cache_bytes
    scheduler = Scheduler(engine, config.max_running, config.max_waiting)
    functions = functions or FunctionRegistry()
    metrics = ServerMetrics(scheduler, functions.names)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(scheduler.close)

    app = FastAPI(
        title="multimodal_ai",
        version=__version__,
        description="An OpenAI-compatible server of models that see, read and call functions.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.functions = functions
    app.state.config, app.state.scheduler, app.state.metrics = config, scheduler, metrics
    app.state.started = int(time.time())
    add_error_handlers(app)
    _add_own_routes(app)
    app.include_router(api_router())
    add_page(app)
    _document_errors(app)
    add_gate(app, config, metrics.http)
    return app


def add_gate(app: FastAPI, config: ServerConfig, counted: Counter) -> None:
    """Put a gate before all routes of an application; its state holds it as `gate`."""

    def gate(inner: ASGIApp) -> Gate:
        app.state.gate = Gate(inner, config, counted)
        return app.state.gate

    app.add_middleware(gate)
    app.middleware_stack = app.build_middleware_stack()


def add_error_handlers(app: FastAPI) -> None:
    """Let every error leave in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        given = short_json(first.get("input"), 60)
        message = f"{place}: {first['msg']}, got {given}" if place else f"the body: {first['msg']}"
        return ApiError(400, message, "invalid_value", place or None).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return ApiError(error.status_code, str(error.detail), headers=headers).response()

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return ApiError(400, "the client went away before its body was complete").response()


def _add_own_routes(app: FastAPI) -> None:
    @app.get("/health", tags=["server"], summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["server"], summary="Whether it takes requests", responses={503: {}})
    async def ready(request: Request) -> Response:
        state = request.app.state
        if state.gate.draining or not state.scheduler.alive:
            return JSONResponse({"status": "shutting down"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", tags=["server"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def measured(request: Request) -> Response:
        return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", tags=["models"], summary="The one model that is served")
    async def models(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [_model(request.app)]}

    @app.get("/v1/models/{model}", tags=["models"], summary="What is known of a model")
    async def model(model: str, request: Request) -> dict[str, Any]:
        check_model(request.app.state.config, model)
        return _model(request.app)


def _model(app: FastAPI) -> dict[str, Any]:
    config, engine = app.state.config, app.state.scheduler.engine
    return {
        "id": config.model_name,
        "object": "model",
        "created": app.state.started,
        "owned_by": "multimodal_ai",
        "x_context_tokens": engine.processing.rendering.max_source,
        "x_output_tokens": config.max_output_tokens,
        "x_embedding_width": engine.model.config.head.width,
        "x_functions": [_listed(function) for function in app.state.functions],
    }


def _listed(function: RegisteredFunction) -> dict[str, Any]:
    tool = function.spec.to_tool()
    return {**tool, "x_server": function.server} if function.server else tool


def _document_errors(app: FastAPI) -> None:
    """Put the shape of errors into the OpenAPI description, for every route that can fail."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            text = {"type": ["string", "null"]}
            properties = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["Error"] = {
                "type": "object",
                "properties": {"error": {"type": "object", "properties": properties, "required": ["message", "type"]}},
                "required": ["error"],
            }
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if path.startswith("/v1/"):
                        operation["responses"].update({str(status): value for status, value in ERRORS.items()})
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
