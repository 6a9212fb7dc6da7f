"""Train, evaluate and serve models that see, read and call functions."""

__version__ = "0.1.0"
