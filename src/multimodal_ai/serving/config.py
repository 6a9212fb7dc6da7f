"""What a server allows: limits on every size and time, keys, and what it may do beyond answering.

Defaults suit one small model on a few cores behind a firewall. Nothing here is read from a request.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from multimodal_ai.utils.config import ConfigModel


class RayConfig(ConfigModel):
    """Replicas of `multimodal-ai serve --ray`: how many, with what, and where."""

    address: str = Field(
        default="", description="a Ray cluster to join (`auto`, host:port); empty: one of its own, here"
    )
    min_replicas: int = Field(default=1, ge=1, description="replicas that are always there")
    max_replicas: int = Field(default=1, ge=1, description="replicas at most; more than min_replicas: autoscaling")
    target_ongoing_requests: float | None = Field(
        default=None, gt=0, description="requests a replica should have at once; more: scale up. Unset: max_running"
    )
    upscale_seconds: float = Field(default=30.0, ge=0, description="that the load must last before replicas are added")
    downscale_seconds: float = Field(default=600.0, ge=0, description="the same before one is taken away")
    cpus: float = Field(default=1.0, ge=0, description="cores that Ray sets aside for a replica, and its threads")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of a replica; 0.5: two replicas share one")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})")
        return self


class ServerConfig(ConfigModel):
    """Settings of `multimodal-ai serve`."""

    model_name: str = Field(default="multimodal-ai", description="the name that clients give as `model`")
    key_hashes: dict[str, str] = Field(default={}, description="SHA-256 of each API key by its name; empty: no keys")
    max_body_bytes: int = Field(default=24 << 20, ge=1, description="longest request body")
    max_images: int = Field(default=8, ge=0, description="images of one request")
    max_image_bytes: int = Field(default=10 << 20, ge=1, description="file size of one image")
    max_image_pixels: int = Field(default=16 << 20, ge=1, description="width times height of one image")
    max_messages: int = Field(default=512, ge=1, description="messages of one request")
    max_functions: int = Field(default=1024, ge=0, description="functions of one request")
    max_schema_bytes: int = Field(default=64 << 10, ge=1, description="JSON of one function or response format")
    max_tools_bytes: int = Field(default=512 << 10, ge=1, description="JSON of all functions of a request")
    max_output_tokens: int = Field(default=1024, ge=1, description="tokens of one reply, also where none are asked for")
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="where a request names none; 0: the likeliest token"
    )
    max_choices: int = Field(default=8, ge=1, description="`n` of one request")
    max_inputs: int = Field(default=256, ge=1, description="texts and images of one embeddings request")
    max_running: int = Field(default=16, ge=1, description="replies that are written at once")
    max_waiting: int = Field(default=64, ge=1, description="replies that may wait; beyond: 429")
    cache_bytes: int = Field(default=256 << 20, ge=0, description="kept of images, function cards and conversations")
    max_concurrent_per_key: int = Field(default=16, ge=1, description="requests of one key at once; beyond: 429")
    upload_seconds: float = Field(default=30.0, gt=0, description="for a request's body to arrive")
    request_seconds: float = Field(default=120.0, gt=0, description="for a reply, waiting included")
    drain_seconds: float = Field(default=30.0, gt=0, description="after SIGTERM, for replies that have begun")
    fetch_images: bool = Field(default=False, description="fetch images from http(s) addresses that are public")
    approve: bool = Field(default=False, description="x_execute runs side effects unasked, where provenance allows it")
    client_approval: bool = Field(
        default=False, description="/v1/calls runs side effects: its clients are trusted to have asked a person"
    )
    log_contents: bool = Field(default=False, description="log what users and model say")
    ray: RayConfig = Field(default=RayConfig(), description="replicas, with --ray")


def read_keys(path: Path) -> dict[str, str]:
    """Hashes by name from a file with a line `name key` for each API key; `#` begins a comment.

    Raises ValueError for a file that holds no keys, a line of another form, a short key, or a name given twice.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(f"{path}, line {number}: expected a name and a key, such as `alice 4f8c…`")
        name, key = words
        if len(key) < 16:
            raise ValueError(f"{path}, line {number}: the key of {name} has less than 16 characters; make a longer one")
        if name in hashes:
            raise ValueError(f"{path}, line {number}: {name} is given twice")
        hashes[name] = key_hash(key)
    if not hashes:
        raise ValueError(f"{path}: no keys; write a line `name key` for each")
    return hashes


def key_hash(key: str) -> str:
    """SHA-256 of an API key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
