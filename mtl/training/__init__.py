"""MultiTaskModel: what tasks mean to Keras' trainer."""

from mtl.devices import shard_tables
from mtl.training.extract import extract_task
from mtl.training.grow import grow
from mtl.training.model import MultiTaskModel
from mtl.training.processes import join

__all__ = ["MultiTaskModel", "extract_task", "grow", "join", "shard_tables"]
