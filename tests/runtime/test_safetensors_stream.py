"""Streamed safetensors files: readable by the library, complete or absent, read back slice by slice."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf, write_stream
from cogvideo_jax.runtime.weights import load_weights, read_description

ARRAYS = {
    "half": np.arange(7, dtype=np.float16),
    "layers/kernel": np.arange(24, dtype=np.float32).reshape(3, 2, 4),
    "brain": np.ones((2, 3), ml_dtypes.bfloat16),
    "empty": np.zeros((0, 4), np.float32),
}
LEAVES = {name: Leaf(array.dtype, array.shape) for name, array in ARRAYS.items()}


def in_rows(name: str) -> list[np.ndarray]:
    return [ARRAYS[name][row : row + 1] for row in range(len(ARRAYS[name]))]


def test_the_library_reads_what_was_streamed(tmp_path):
    write_stream(tmp_path / "a.safetensors", LEAVES, chunks=in_rows, metadata={"description": '{"kind": "x"}'})
    read = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    tree, description = load_weights(tmp_path / "a.safetensors")
    assert description == {"kind": "x"} and tree["layers"]["kernel"].shape == (3, 2, 4)
    assert read_description(tmp_path / "a.safetensors") == (LEAVES, description)


def test_a_transposed_piece_is_written_in_the_order_of_its_own_axes(tmp_path):
    leaf, array = {"a": Leaf(np.dtype(np.float32), (3, 2))}, np.arange(6, dtype=np.float32).reshape(2, 3)
    write_stream(tmp_path / "a.safetensors", leaf, chunks=lambda _: [array.T], metadata={})
    np.testing.assert_array_equal(read_leaf(tmp_path / "a.safetensors", "a"), array.T)
    np.testing.assert_array_equal(read_leaf(tmp_path / "a.safetensors", "a", slice(1, 3)), array.T[1:3])


@pytest.mark.parametrize("chunks", [in_rows("half")[:-1], [*in_rows("half"), in_rows("half")[0]], [np.ones(7)]])
def test_too_few_too_many_or_wrong_pieces_leave_no_file(chunks, tmp_path):
    with pytest.raises(ValueError, match="half"):
        write_stream(tmp_path / "a.safetensors", {"half": LEAVES["half"]}, chunks=lambda _: chunks, metadata={})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_older_file_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    write_stream(path, LEAVES, chunks=in_rows, metadata={})

    def stopping(name):
        if name == "half":
            raise KeyboardInterrupt
        return in_rows(name)

    with pytest.raises(KeyboardInterrupt):
        write_stream(path, LEAVES, chunks=stopping, metadata={"new": "yes"}, replace=True)
    assert read_header(path) == (LEAVES, {})
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_stream(path, LEAVES, chunks=in_rows, metadata={})
    with pytest.raises(ValueError, match="not a weights file"):
        read_description(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        read_header(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_header(tmp_path / "none")
