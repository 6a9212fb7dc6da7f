"""The model that comes with the package: where it stands, and what it is called where none is named."""

from __future__ import annotations

from pathlib import Path

DEFAULT_NAME = "default"  # what the server calls it
_FOLDER = Path(__file__).parent / "shipped_models" / "small"


def model_folder(given: Path | None) -> Path:
    """The folder a person named, or that of the model in the package.

    Raises:
        ValueError: none was named and this installation has none.
    """
    if given is not None:
        return given
    if not (_FOLDER / "config.json").is_file():
        raise ValueError("this installation has no model of its own; name one with --model (runs/quickstart)")
    return _FOLDER


def model_name(given: Path | None) -> str:
    """What a server calls the model of a folder."""
    return DEFAULT_NAME if given is None else given.resolve().name
