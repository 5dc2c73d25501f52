"""What serves a trained model."""

from mtl.serving.pipeline import Pipeline

__all__ = ["Pipeline"]
