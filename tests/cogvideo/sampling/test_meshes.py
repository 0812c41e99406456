"""Sampling on several devices: the same tokens, weights and caches split, and no cache sent around."""

import json
import subprocess
import sys

import pytest

from tests.cogvideo.sampling.on_meshes import CASES, MESHES
from tests.devices import environment

RUNS = [(case, *mesh) for case, meshes in MESHES.items() for mesh in meshes]


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-m", "tests.cogvideo.sampling.on_meshes"]
    done = subprocess.run(command, env=environment(4), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case, data, tensor", RUNS)
def test_any_mesh_writes_the_tokens_of_one_device(found, case, data, tensor):
    one, many = found[case]["1x1"], found[case][f"{data}x{tensor}"]
    assert many["tokens"] == one["tokens"]
    assert many["kernel"] == 1 / tensor and many["cache"] == 1 / (data * tensor)
    assert one["sent"] == {}


@pytest.mark.parametrize("case, data, tensor", RUNS)
def test_a_step_sends_tokens_and_sums_but_no_cache(found, case, data, tensor):
    config = CASES[case][0]
    many = found[case][f"{data}x{tensor}"]
    steps = config.layout.frame_tokens
    assert sum(many["sent"].values()) / steps < many["cache_bytes"] / 8
