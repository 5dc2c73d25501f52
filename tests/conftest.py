"""What every test shares: nothing but how it is compiled, and for how many devices."""

import os

if os.environ.get("KERAS_BACKEND") == "jax":
    # The tests compile much and compute little; some spread what they compute over four devices.
    # Read by JAX when it is imported.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_force_host_platform_device_count=4",
    )
    os.environ.setdefault("NPROC", "16")  # threads, so that four devices don't wait for each other

if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    import tensorflow as tf

    # Two devices, of which a strategy makes replicas; without one, all runs on the first.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
