"""Train, evaluate and serve models that see, read and call functions."""

__version__ = "0.1.0"

# A CPU's matrix kernels are compiled once a shape; with the default of 1,024 a training mix evicts its own.
import os as _os

_os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
