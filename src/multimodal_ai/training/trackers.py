"""Trackers of Accelerate by name: where numbers and examples go besides metrics.jsonl.

A tracker must never cost a run. A name that is unknown or not installed is an error before anything is
trained; one that fails later (its disk is full, its server is gone) is left out from then on, with an
error in the log. It works on the main process only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from multimodal_ai.training.config import LoggingConfig
from multimodal_ai.utils.config import flatten
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)
TENSORBOARD = "tensorboard"


class Trackers:
    """The trackers of a run.

    Args:
        config: names, and options by name.
        folder: where trackers that keep files keep them.
        run: the name of the run; TensorBoard's folder.

    Raises:
        ValueError: a name means no tracker, or its package is missing; options of one that is not used.
    """

    def __init__(self, config: LoggingConfig, folder: Path, run: str) -> None:
        self._classes = {name: _tracker_class(name) for name in config.trackers}
        unused = sorted(set(config.tracker_options) - set(self._classes))
        if unused:
            raise ValueError(f"logging.tracker_options: {unused[0]} is not among logging.trackers; add it there")
        self._options, self._folder, self._run = config.tracker_options, folder, run
        self._open: dict[str, GeneralTracker] = {}

    def start(self, step: int, settings: Mapping[str, Any]) -> None:
        """Open them after `step` steps of the run; `settings` is its configuration."""
        if not PartialState().is_main_process:
            return
        for name, kind in self._classes.items():
            options = dict(self._options.get(name, {}))
            if name == TENSORBOARD and step:
                options.setdefault("purge_step", step + 1)  # steps that a kill undid
            arguments = [self._run, str(self._folder)] if kind.requires_logging_directory else [self._run]
            try:
                tracker = kind(*arguments, **options)
                tracker.start()
                self._open[name] = tracker
                if name == TENSORBOARD:  # its own form makes a folder and a run for each start
                    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
                    tracker.log({"config": "".join(f"    {line}\n" for line in text.splitlines())}, step=step)
                else:
                    plain = (str, int, float)
                    values = flatten(settings).items()
                    tracker.store_init_configuration(
                        {key: value if isinstance(value, plain) else str(value) for key, value in values}
                    )
            except Exception as error:
                self._leave_out(name, error)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name."""
        self._each(lambda name, tracker: tracker.log(dict(values), step=step))

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """Log texts in Markdown by name."""
        if values:
            self._each(lambda name, tracker: tracker.log(dict(values), step=step))

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Log images by name, uint8[n, H, W, 3] each, to those that can show images."""

        def log(name: str, tracker: Any) -> None:
            if hasattr(tracker, "log_images"):
                tracker.log_images(dict(values), step=step, **({"dataformats": "NHWC"} if name == TENSORBOARD else {}))

        if values:
            self._each(log)

    def finish(self) -> None:
        """Close them."""
        self._each(lambda name, tracker: tracker.finish())
        self._open.clear()

    def _each(self, action: Callable[[str, GeneralTracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                action(name, tracker)
            except Exception as error:  # each fails in ways of its own; none is worth the run
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        logger.error("tracker %s failed and is left out from here on; metrics.jsonl has every number: %s", name, error)


def _tracker_class(name: str) -> type[GeneralTracker]:
    """A tracker of Accelerate, or `module:Class` for one's own subclass of its `GeneralTracker`."""
    module, _, attribute = name.partition(":")
    if attribute:
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"logging.trackers: {name}: {error}") from None
        if not (isinstance(kind, type) and issubclass(kind, GeneralTracker)):
            raise ValueError(f"logging.trackers: {name} is no subclass of accelerate.tracking.GeneralTracker")
        return kind
    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(LOGGER_TYPE_TO_CLASS)
        raise ValueError(f"logging.trackers: unknown tracker {name}; allowed: {known}, or module:Class for your own")
    if name not in map(str, get_available_trackers()):
        raise ValueError(f"logging.trackers: {name} is not installed; `pip install {name}`, or leave it out")
    return LOGGER_TYPE_TO_CLASS[name]
