"""Checkpoints: a damaged one is passed over for the one before, and nothing else is lost."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from cogvideo_jax.runtime.checkpoint import Checkpoints

SIZE = 5000


def state(step: int):
    """Noise that no compressor shortens, so that a changed byte is a changed number."""
    return {"a": jax.random.normal(jax.random.key(step), SIZE), "b": {"c": jnp.full((3,), step, jnp.int32)}}


LIKE = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(jax.devices()[0])), state(0)
)


def cut(path, *, to: float):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path, place: int):
    """Changes one bit of a byte, which turns one digit into another."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit of the numbers": lambda step: flip(largest(step / "state"), -SIZE),
    "a digit of the place": lambda step: flip(step / "data" / "metadata", len('{"place": {"next": ')),
    "a digit of a checksum": lambda step: flip(step / "data" / "metadata", -3),
    "half of the numbers": lambda step: cut(largest(step / "state"), to=0.5),
    "the index of the numbers": lambda step: cut(step / "state" / "manifest.ocdbt", to=0.3),
    "the shapes": lambda step: cut(step / "state" / "_METADATA", to=0.5),
    "the place in the data": lambda step: cut(step / "data" / "metadata", to=0.5),
    "the state": lambda step: shutil.rmtree(step / "state"),
}


@pytest.fixture
def three(tmp_path):
    """A run with checkpoints 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"next": step})
    checkpoints.close()
    return tmp_path


def test_the_newest_is_restored(three):
    step, found, place = Checkpoints(three, keep=3).restore(LIKE)
    assert step == 3 and place == {"next": 3}
    np.testing.assert_array_equal(found["a"], state(3)["a"])


def test_a_fresh_run_has_none(tmp_path):
    assert Checkpoints(tmp_path, keep=3).restore(LIKE) is None


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_one_is_passed_over_and_written_anew(three, damage, caplog):
    damage(three / "checkpoints" / "3")
    checkpoints = Checkpoints(three, keep=3)
    with caplog.at_level("WARNING", logger="absl"):
        step, found, place = checkpoints.restore(LIKE)
    assert step == 2 and place == {"next": 2} and int(found["b"]["c"][0]) == 2
    assert "checkpoint 3 cannot be read" in caplog.text and "the one before, step 2" in caplog.text
    assert Checkpoints(three, keep=3).restore(LIKE)[0] == 2  # a new start knows, without trying again
    checkpoints.save(3, state(30), {"next": 30})
    checkpoints.close()
    step, found, _ = Checkpoints(three, keep=3).restore(LIKE)
    assert step == 3 and int(found["b"]["c"][0]) == 30
    assert {path.name for path in (three / "checkpoints").iterdir()} == {"1", "2", "3"}
    assert [path.name for path in (three / "damaged_checkpoints").iterdir()] == ["3"]


def test_steps_before_a_damaged_one_are_saved_again(tmp_path):
    """Orbax saves no step that is older than the newest, and says so only by its result."""
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step in (100, 200, 300):
        checkpoints.save(step, state(step), {"next": step})
    checkpoints.close()
    DAMAGES["the state"](tmp_path / "checkpoints" / "300")
    checkpoints = Checkpoints(tmp_path, keep=5)
    assert checkpoints.restore(LIKE)[0] == 200
    for step in (250, 300):
        checkpoints.save(step, state(step), {"next": step})
    with pytest.raises(RuntimeError, match="did not save step 50"):
        checkpoints.save(50, state(50), {"next": 50})
    checkpoints.close()
    assert Checkpoints(tmp_path, keep=5).restore(LIKE)[0] == 300


def test_what_one_of_several_processes_could_not_read_is_set_aside_at_the_next_start(three):
    (three / "checkpoints" / "damaged.json").write_text("[3]")
    assert Checkpoints(three, keep=3).restore(LIKE)[0] == 2
    assert {path.name for path in (three / "checkpoints").iterdir()} == {"1", "2"}


def test_if_none_can_be_read_the_run_does_not_start_anew(three):
    other = LIKE | {"a": jax.ShapeDtypeStruct((7,), jnp.float32, sharding=LIKE["a"].sharding), "z": LIKE["a"]}
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of the checkpoints \[3, 2, 1\] .* can be read .* --workdir"):
            Checkpoints(three, keep=3).restore(other)
    assert Checkpoints(three, keep=3).restore(LIKE)[0] == 3
