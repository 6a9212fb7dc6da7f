"""Functions that misbehave, in a file of their own so that another process can find them."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def add(a: int, b: int = 1) -> int:
    """Add.

    Args:
        a: First.
        b: Second.
    """
    return a + b


def hang(seconds: float = 60.0) -> str:
    """Sleep."""
    time.sleep(seconds)
    return "awake"


def crash() -> None:
    """End the process."""
    os._exit(3)


def leave() -> None:
    """Raise SystemExit."""
    sys.exit("left")


def leak(password: str) -> None:
    """Raise an error that holds a secret."""
    raise RuntimeError(f"login with {password} failed, Authorization: Bearer abcdefghijklmnop1234")


def flood(size: int = 1_000_000) -> str:
    """Return and print very much."""
    print("x" * size)
    return "é" * size


def hog() -> int:
    """Take a lot of memory."""
    return len(bytearray(8 << 30))


def environment() -> dict[str, Any]:
    """Return the environment."""
    return dict(os.environ)


def child() -> str:
    """Start a child that outlives a plain kill."""
    import subprocess

    marker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(marker.pid)
    time.sleep(60)
    return ""
