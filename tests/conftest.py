"""Tests run on the CPU, in two processes that share a compilation cache, and compile quickly.

Nearly all of them do arithmetic on tiny arrays, which takes less time than compiling it well: with few optimisations,
by XLA's older emitters, which compile in half the time, and in one thread, for the other core has the other process.
Where numbers are held to those of the released code, the fixture `full_optimisation` optimises as for users.
"""

import contextlib
import gc
import os
import tempfile
from collections.abc import Iterator

# Before jax is imported, and in the environment, which workers and the commands that tests start inherit.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false",
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="cogvideo_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name

import jax
import jaxtyping
import pytest
from jax._src import compiler

from tests import annotations

jaxtyping.install_import_hook("cogvideo_jax", f"{annotations.__name__}.check_arrays")  # before the package is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker ends long after the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees the programs of a file when it is done; all files together would keep gigabytes of them.

    Python's garbage collector then leaves alone what is left, through which it would search again and again.
    """
    yield
    jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def full_optimisation():
    """Programs of this file are optimised as they are for users."""
    with _compiling(xla_cpu_use_fusion_emitters=True):
        yield


@pytest.fixture(scope="module")
def some_optimisation():
    """Programs of this file run long enough to be worth some optimisation."""
    with _compiling(xla_backend_optimization_level=1):
        yield


@contextlib.contextmanager
def _compiling(**flags: bool | int) -> Iterator[None]:
    """XLA optimises, with these flags."""
    options_of_tests = compiler.get_compile_options

    def changed(*args, **kwargs):
        options = options_of_tests(*args, **kwargs)
        options.env_option_overrides = [*options.env_option_overrides, *flags.items()]
        return options

    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", changed)
        yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")


@pytest.fixture
def unchecked_annotations():
    """For tests that give a function arrays which it should refuse itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
