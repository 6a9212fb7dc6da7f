"""Benchmarks that come as Python packages, imported without the vendors' kits that they pin.

They are installed with `--no-deps`: a normal install of `bfcl-eval` takes NumPy back to 1.26 and pulls the
client of every vendor. What such a module imports only to name it is replaced by an empty stand-in.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

INSTALL = "pip install --no-deps -r requirements-evaluation.txt"


def package_folder(name: str, suite: str) -> Path:
    """Where an installed package lies, without importing it; ValueError with the command that installs it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ValueError(f"suite {suite} needs the package {name}, which is not installed; {INSTALL}")
    return Path(found.origin).parent


class _Any(type):
    """A class that has every attribute, so that a module may name, subclass and decorate with what is not there."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)


def _stand_in(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    members = {
        "__init__": lambda self, *args, **kwargs: None,
        "__call__": lambda self, given=None, *args, **kwargs: given,  # a decorator leaves a function as it is
        "__class_getitem__": classmethod(lambda cls, item: cls),
    }
    return _Any(name, (), members)


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _stand_in(name)


@contextmanager
def stand_ins(names: Iterable[str], given: Mapping[str, ModuleType] | None = None) -> Iterator[None]:
    """Within: modules of these names that cannot be imported, and all below them, are empty stand-ins.

    `given` modules take their place whether they could be imported or not.
    """
    finder = _Finder(tuple(name for name in names if importlib.util.find_spec(name) is None))
    before = set(sys.modules)
    sys.modules.update(given or {})
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], _StandIn):
                del sys.modules[name]


class _Finder:
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        wanted = any(name == each or name.startswith(each + ".") for each in self.names)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def variable(name: str) -> Iterator[None]:
    """Within: the environment variable names a temporary folder."""
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ[name] = temporary
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
