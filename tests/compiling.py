"""How the tests have JAX compile: they compile much and compute little."""

# Read by JAX from XLA_FLAGS when it is imported.
COMPILE_QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
