"""A multi-task learning model zoo for Keras 3, in the style of DeepCTR."""

from mtl import quiet

quiet.set_level_of_command()
quiet.install()  # before Keras, which loads TensorFlow

from mtl import balancing, features, layers, losses, models, optimizers  # noqa: E402

__version__ = "0.1.0"

__all__ = ["balancing", "features", "layers", "losses", "models", "optimizers"]
