"""MultiTaskModel: what tasks mean to Keras' trainer."""

from mtl.training.extract import extract_task
from mtl.training.grow import grow
from mtl.training.model import MultiTaskModel

__all__ = ["MultiTaskModel", "extract_task", "grow"]
