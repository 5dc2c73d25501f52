"""What every test shares: nothing but how it is compiled, and for how many devices."""

import gc
import importlib.metadata
import os

from packaging.version import Version

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")


def _installed(package: str, least: str) -> bool:
    try:
        return Version(importlib.metadata.version(package)) >= Version(least)
    except importlib.metadata.PackageNotFoundError:
        return True  # then it reads no flags


# The tests compile much and compute little, and so do the scripts that they run. JAX and
# TensorFlow read these flags when they first compile, and die of those that they don't know.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if _installed("jax", "0.6") and _installed("tensorflow", "2.20"):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # these take half of the time
if BACKEND == "jax":
    # Some tests spread what they compute over four devices, which need threads of their own.
    _FLAGS.append("--xla_force_host_platform_device_count=4")
    os.environ.setdefault("NPROC", "16")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
# PyTorch's threads would wait for those of the other workers: small models need one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if BACKEND == "tensorflow":
    import tensorflow as tf

    # Two devices, of which a strategy makes replicas; without one, all runs on the first.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector needn't look at half a million objects."""
    gc.collect()
    gc.freeze()
