"""A multi-task learning model zoo for Keras 3, in the style of DeepCTR."""

from mtl import features, layers, models, optimizers

__version__ = "0.1.0"

__all__ = ["features", "layers", "models", "optimizers"]
