"""What every test shares: nothing but how it is compiled."""

import os

if os.environ.get("KERAS_BACKEND") == "jax":
    # The tests compile much and compute little. Read by JAX when it is imported.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    )
