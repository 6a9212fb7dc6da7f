"""Checkpoints: sharded tensors and a manifest, complete or not there at all.

A checkpoint is written into a folder aside, synced, and renamed; only then do older ones go. A kill at
any moment, or a full disk, leaves the former checkpoint whole. Training waits for a copy of the state in main
memory, never for the disk: a thread writes the copy, one at a time. Tensors are stored flat by parameter name
(torch.distributed.checkpoint), so that any number of processes and any strategy can read them, and a
parameter that never got a gradient simply has no optimizer entry. Load only checkpoints you trust: the
index that torch writes is a pickle.

    checkpoints/step_00000200/
        __0_0.distcp  __1_0.distcp   model/<name>, optimizer/<name>/<state>: one file for each process
        .metadata                    torch's index of them
        manifest.json                step, config, data state, versions, size and SHA-256 of every file
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from multimodal_ai.training.background import Background
from multimodal_ai.training.config import FREE_KEYS, CheckpointConfig
from multimodal_ai.training.distributed import Distribution
from multimodal_ai.training.state import empty_states, own_share, snapshot, state_tensors
from multimodal_ai.utils.config import flatten
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)
FORMAT = 1
MANIFEST = "manifest.json"
ASIDE = ".partial"
NAME = re.compile(r"step_(\d{8,})")


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or cannot be used here; the message says why and what to do."""


class DamagedError(CheckpointError):
    """The files of a checkpoint are not what its manifest says."""


def latest(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None. Incomplete ones are passed over."""
    found = []
    for path in folder.glob("step_*"):
        match = NAME.fullmatch(path.name)
        if match and _complete(path):
            found.append((int(match.group(1)), path))
    return max(found)[1] if found else None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is of a format this version does not know.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a complete checkpoint: {error}") from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {manifest.get('format')}, this version reads {FORMAT}")
    return manifest


def damaged_files(path: Path, manifest: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of the named files of a checkpoint that are missing, or not what its manifest says."""
    return [
        name for name in names if not (path / name).is_file() or _fingerprint(path / name) != manifest["files"][name]
    ]


def config_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line per key whose value differs and that decides what is computed."""
    old, new = flatten(saved), flatten(current)
    lines = []
    for key in sorted(set(old) | set(new)):
        free = any(key == name or key.startswith(name + ".") for name in FREE_KEYS)
        if not free and old.get(key) != new.get(key):
            lines.append(f"{key}: {_show(old, key)} in the checkpoint, {_show(new, key)} now")
    return lines


class Checkpointer:
    """Writes, keeps and reads the checkpoints of one run; all processes call every method together.

    A context, around the run: at its end it waits for the save in flight, whatever ends the run.
    newest: the newest complete checkpoint of the run that this process knows of.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, distribution: Distribution) -> None:
        self.folder, self.config, self.distribution = folder, config, distribution
        self.newest: Path | None = None
        self._background = Background("checkpoint")
        self._began = time.monotonic()  # the last save
        # What the threads that write say to each other must not mix with what the training says.
        apart = config.asynchronous and dist.is_initialized()
        self._processes = dist.new_group(backend="gloo") if apart else None

    @property
    def due(self) -> bool:
        """Whether this process asks all to `save`: it is time, or a failure must end the run."""
        every = self.config.every_seconds
        late = every is not None and time.monotonic() - self._began >= every
        return (late and self.distribution.main) or self._background.failed

    def wait(self) -> None:
        """Wait until no save is in flight.

        Raises:
            CheckpointError: it could not be written and the config says `on_failure: stop`.
        """
        self._background.wait()

    def __enter__(self) -> Checkpointer:
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()  # a Ctrl-C meanwhile leaves at once; a thread that dies with the interpreter may make it abort
        except Exception as failure:
            if error is None:
                raise
            logger.error("%s", failure)  # what ended the run is raised

    def save(
        self, step: int, objective: nn.Module, optimizer: torch.optim.Optimizer, manifest: Mapping[str, Any]
    ) -> None:
        """Write the state after `step` steps, when the save in flight is done; asynchronous: begin to.

        Raises:
            CheckpointError: it, or asynchronous the one before it, could not be written and the config says
                `on_failure: stop`.
        """
        self.wait()
        self._began = time.monotonic()
        final = self.folder / f"step_{step:08d}"
        if any(self.distribution.gather(_complete(final))):
            self.newest = final
            return
        tensors = state_tensors(objective, optimizer)
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        own = own_share(tensors, self.distribution)
        if self.config.asynchronous:
            own = snapshot(own)
        write = functools.partial(self._write_or_tell, final, own, needed, {**manifest, "step": step})
        if self.config.asynchronous:
            self._background.start(write)
        else:
            write()

    def _write_or_tell(self, final: Path, tensors: dict[str, Tensor], needed: int, manifest: dict[str, Any]) -> None:
        try:
            self._write(final, tensors, needed, manifest)
        except CheckpointError as error:
            if self.distribution.main:
                shutil.rmtree(_aside(final), ignore_errors=True)
            former = latest(self.folder)
            kept = f"the checkpoint {former.name} is untouched" if former else "there is no earlier checkpoint"
            message = f"checkpoint of step {manifest['step']} was NOT written: {error}; {kept}"
            if self.config.on_failure == "stop":
                raise CheckpointError(message) from error
            if self.distribution.main:
                logger.error("%s. Training goes on; free space on the disk of %s", message, self.folder)
        else:
            self.newest = final

    def _write(self, final: Path, tensors: dict[str, Tensor], needed: int, manifest: dict[str, Any]) -> None:
        aside, world, processes = _aside(final), self.distribution, self._processes
        self._attempt(lambda: self._prepare(aside, needed), main_only=True)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                writer = dcp.FileSystemWriter(aside, sync_files=True)
                alone = not dist.is_initialized()
                dcp.save(tensors, storage_writer=writer, process_group=processes, no_dist=alone)
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            for cause in causes:
                if isinstance(cause, KeyboardInterrupt | SystemExit):
                    raise cause from None
            raise CheckpointError(_reason(causes[0] if causes else error)) from error
        except OSError as error:
            raise CheckpointError(_reason(error)) from error
        own = sorted(aside.glob(f"__{world.rank}_*")) + ([aside / ".metadata"] if world.main else [])
        hashes: dict[str, dict[str, Any]] = {}
        self._attempt(lambda: hashes.update({path.name: _fingerprint(path) for path in own}))
        files = {name: entry for part in world.gather(hashes, processes) for name, entry in part.items()}
        whole = {"format": FORMAT, **manifest, "versions": versions(), "files": files}
        self._attempt(lambda: self._commit(aside, final, whole), main_only=True)

    def _attempt(self, action: Any, main_only: bool = False) -> None:
        """Run `action`; an OSError in one process becomes a CheckpointError in all."""
        error: Exception | None = None
        if self.distribution.main or not main_only:
            try:
                action()
            except OSError as caught:
                error = caught
        agreed = self.distribution.agree(error, self._processes)
        if agreed is not None:
            raise CheckpointError(_reason(agreed)) from agreed

    def _prepare(self, aside: Path, needed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in [*self.folder.glob(f".step_*{ASIDE}"), *self.folder.glob(".step_*.old")]:
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(f"needs {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free on the disk of {self.folder}")
        aside.mkdir()

    def _commit(self, aside: Path, final: Path, manifest: Mapping[str, Any]) -> None:
        with open(aside / MANIFEST, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(aside)
        if final.exists():  # an incomplete one, or `save` would have returned it
            shutil.rmtree(final)
        os.rename(aside, final)
        _sync_folder(self.folder)
        complete = sorted(path for path in self.folder.glob("step_*") if _complete(path))
        for old in complete[: -self.config.keep]:
            gone = self.folder / f".{old.name}.old"
            os.rename(old, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def load(self, path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Verify the files, then read weights and optimizer state in place; returns the manifest.

        Raises:
            CheckpointError: a file is damaged, or parameters are missing or of another shape.
        """
        manifest = read_manifest(path)
        world = self.distribution
        names = sorted(manifest["files"])
        damaged = damaged_files(path, manifest, names[world.rank :: world.world_size])
        damaged = [name for part in world.gather(damaged) for name in part]
        if damaged:
            raise DamagedError(
                f"{path / damaged[0]}: damaged (its SHA-256 is not the manifest's); "
                f"delete {path.name} to continue from the checkpoint before it, or anew where there is none"
            )
        stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        target = {f"model/{name}": tensor for name, tensor in objective.state_dict().items()}
        for name, tensor in target.items():
            size = getattr(stored.get(name), "size", None)
            if size != tensor.shape:
                there = "is missing" if size is None else f"has the shape {list(size)}"
                raise CheckpointError(f"{path}: {name} {there}; the model has {list(tensor.shape)}")
        states = empty_states(objective, optimizer, stored)
        target.update(states)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(target, storage_reader=dcp.FileSystemReader(path), no_dist=not dist.is_initialized())
        parameters = dict(objective.named_parameters())
        for key, tensor in states.items():
            _, name, state = key.split("/")
            optimizer.state[parameters[name]][state] = tensor
        return manifest


def versions() -> dict[str, str]:
    """Versions that matter to whoever reads the checkpoint later."""
    packages = ("multimodal-ai", "torch", "accelerate", "numpy", "tokenizers", "datasets")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _complete(path: Path) -> bool:
    """Whether the manifest is there and every file it lists has its size."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}{ASIDE}")


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    return str(error) or type(error).__name__


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"
