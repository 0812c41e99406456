"""Tests run on the CPU, in two processes that share a compilation cache, and compile with few optimisations.

Nearly all of them do arithmetic on tiny arrays, which takes less time than compiling it well. Where numbers are held
to those of the released code, the fixture `full_optimisation` turns optimisations on.
"""

import os
import tempfile

# Before jax is imported, and in the environment, which workers and the commands that tests start inherit.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="cogvideo_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name

import jax
import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file, which share fixtures, in one worker."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees the programs of a file when it is done; all files together would keep gigabytes of them."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def full_optimisation():
    """Programs of this file are compiled as they are for users."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
