"""What every test shares: nothing but how it is compiled."""

import os

from compiling import COMPILE_QUICKLY

if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("XLA_FLAGS", COMPILE_QUICKLY)
