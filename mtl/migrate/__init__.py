"""Models and feature columns of other libraries as ours, and back."""

from mtl.migrate.from_deepctr import from_deepctr
from mtl.migrate.to_deepctr import to_deepctr

__all__ = ["from_deepctr", "to_deepctr"]
