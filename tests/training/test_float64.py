"""Balancers of models whose losses are float64."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest
import toy

from mtl import balancing

if toy.BACKEND == "jax":
    pytest.skip("JAX has no float64 unless told so when it starts", allow_module_level=True)


@pytest.fixture
def _float64() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx("float32")


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("balancer", balancing.BY_NAME)
def test_balancers_take_losses_of_float64(balancer: str) -> None:
    for name in ("MMoE", "ESMM"):
        model = toy.build(name)
        model.compile("sgd", balancer=balancer, run_eagerly=True)
        history = model.fit(toy.features(), toy.labels(), batch_size=24, verbose=0).history
        assert np.isfinite(history["loss"]).all()
