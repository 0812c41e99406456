"""Memory of phases: whether they fit, the sentence if not, and the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.runtime import memory
from cogvideo_jax.runtime.memory import Phase, Room, measured_peak, planned_peak, require, table, working_bytes

GIB = 2**30
PHASE = Phase("key frames", weights=10 * GIB, working=2 * GIB, host=GIB, advice="use --batch 1")


def test_devices_that_share_the_host_add_up():
    require([PHASE], Room(host=25 * GIB, device=None, devices=2))
    with pytest.raises(
        ValueError, match=r"key frames needs 25 GiB of host memory .* but 24 GiB is free; use --batch 1"
    ):
        require([PHASE], Room(host=24 * GIB, device=None, devices=2))


def test_a_device_with_its_own_memory_is_judged_by_itself():
    require([PHASE], Room(host=GIB, device=12 * GIB, devices=8))
    with pytest.raises(ValueError, match="12 GiB of device memory"):
        require([PHASE], Room(host=100 * GIB, device=11 * GIB, devices=8))
    with pytest.raises(ValueError, match="1 GiB of host memory"):
        require([PHASE], Room(host=GIB // 2, device=80 * GIB, devices=8))


def test_the_table_says_what_to_change():
    lines = table([PHASE], Room(host=100 * GIB, device=11 * GIB, devices=8)).splitlines()
    assert lines[1].endswith("no; use --batch 1") and "10240.0" in lines[1]
    assert lines[-1] == "peak memory on each device: 12 GiB, this process's current memory included; 11 GiB is free"


def test_the_planned_peak_is_what_the_process_then_takes():
    plan = planned_peak([Phase("an array", weights=0, working=GIB // 2)], Room(2**40, None, 1))
    np.ones(GIB // 2, np.uint8).sum()
    assert abs(measured_peak() - plan) < 0.05 * plan


def test_a_programs_bytes_are_its_arguments_results_and_temporaries():
    """Of y = (x @ x.T).sum(axis=0), x [256, 4]: the product is temporary."""
    x = jax.ShapeDtypeStruct((256, 4), jnp.float32)
    compiled = jax.jit(lambda x: jnp.sort(x @ x.T, axis=0).sum(axis=0)).lower(x).compile()
    assert 256 * 256 * 4 <= working_bytes(compiled, weights=0) - 256 * 4 * 4 <= 3 * 256 * 256 * 4


def test_a_donated_argument_counts_once():
    x = jax.ShapeDtypeStruct((1 << 20,), jnp.float32)
    once = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    twice = jax.jit(lambda x: x + 1).lower(x).compile()
    assert working_bytes(once, 0) == 4 << 20 and working_bytes(twice, 0) == 8 << 20


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    for name, text in {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 5\ninactive_file 200",
    }.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.room().host == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.room().host > 500
