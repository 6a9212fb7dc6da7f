"""Errors in the shape that OpenAI's clients read: a status, a message for a person, a type, a code, a parameter.

A mistake of the caller is a 4xx that says what to change; a 500 never carries what went wrong inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from multimodal_ai.data.image_files import ImageError
from multimodal_ai.data.rendering import TooLong
from multimodal_ai.inference.scheduler import Cancelled, QueueFull

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What leaves as an HTTP error. param: the part of the request that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """`{"error": …}`."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        # A message may quote what it complains of; half a surrogate pair in it cannot be sent.
        message = self.message.encode("utf-8", "backslashreplace").decode("utf-8")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def too_busy(message: str, seconds: int = 1) -> ApiError:
    """429, with when to try again."""
    return ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": str(seconds)})


def as_api_error(error: BaseException) -> ApiError:
    """What an error of the engine is to a client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return too_busy("the server is full: too many requests wait; try again in a second")
    if isinstance(error, TooLong):
        return ApiError(400, str(error), "context_length_exceeded", "messages")
    if isinstance(error, ImageError):
        return ApiError(400, str(error), "invalid_image", "messages")
    if isinstance(error, ValueError):  # messages, functions, choices and schemas that cannot be used
        return ApiError(400, str(error), "invalid_value")
    if isinstance(error, Cancelled):
        return ApiError(503, "the server is shutting down; try again", "shutting_down", headers={"Retry-After": "5"})
    if isinstance(error, TimeoutError):
        return ApiError(504, "the reply was not complete in time; ask for fewer tokens or try again", "timeout")
    return ApiError(500, "the server failed; the request was not answered", "internal_error")
