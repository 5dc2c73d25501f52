"""A multi-task learning model zoo for Keras 3, in the style of DeepCTR."""

from mtl import balancing, features, layers, losses, models, optimizers

__version__ = "0.1.0"

__all__ = ["balancing", "features", "layers", "losses", "models", "optimizers"]
