"""One clip on several devices: its tokens, heads, guidance and weights are shared, and the numbers are the same."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.cogvideox.goldens import load
from tests.cogvideox.on_meshes import MESHES
from tests.devices import environment


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-m", "tests.cogvideox.on_meshes"]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_latents_are_those_of_one_device(found, mesh):
    _, arrays = load("x_pipeline_t2v")
    expected = np.moveaxis(arrays["ddim.latents"][1], 2, -1)
    np.testing.assert_allclose(found[mesh]["latents"], expected, atol=2e-4)


@pytest.mark.parametrize("mesh", MESHES)
def test_pixels_are_those_of_one_device(found, mesh):
    """Rows of every frame are shared."""
    _, arrays = load("x_pipeline_t2v")
    np.testing.assert_allclose(found[mesh]["pixels"], arrays["ddim.frames"][:, :, ::4, ::4], atol=2e-4)


def test_devices_exchange_tokens_for_heads(found):
    assert not found["one"]["sent"]
    assert any("all-to-all" in kind for kind in found["sequence"]["sent"])


def test_matrices_are_shared(found):
    assert found["one"]["kernel"] == 1 and found["all"]["kernel"] == 0.5 and found["fsdp"]["kernel"] == 0.5
