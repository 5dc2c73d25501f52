"""Balancing the tasks of a model in training."""
