"""Tests run on the CPU, and share one compilation cache: what one test compiled no other compiles again."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = tempfile.TemporaryDirectory(prefix="cogvideo_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)  # read by the commands that tests start, too
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
