"""What the tests of the benchmark share: a small data set, and how models are compiled."""

import pytest

from mtl.data import make_funnel
from mtl.training import stepped


@pytest.fixture(scope="session")
def data():
    return make_funnel(2_000, num_users=20, num_items=10, conversion_rate=0.4, seed=1)


@pytest.fixture(autouse=True)
def _without_xla(monkeypatch):
    """On TensorFlow it would compile for ten seconds per model."""
    monkeypatch.setattr(stepped, "pays_on_cpu", lambda model: False)
