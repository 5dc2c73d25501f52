"""Models and feature columns of other libraries as ours, and back."""

from mtl.migrate.from_deepctr import from_deepctr

__all__ = ["from_deepctr"]
