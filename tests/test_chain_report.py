"""Chains, compiled for TPUs that are not there."""

import importlib.util
import os
import subprocess
import sys

import pytest

from cogvideo_jax import chain_report
from cogvideo_jax.chain_report import describe, estimate_chain
from cogvideo_jax.interface import Program, Step, StepMemory
from cogvideo_jax.runtime.collectives import Traffic
from cogvideo_jax.runtime.topology import Chip, Examined
from tests.cogvideox.snapshots import write_snapshot

CHIP = Chip(flops=100.0, memory=50, bandwidth=10.0, network=4.0)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu exists for Linux on x86_64"
)


class Rows:
    """A sampler of one step whose programs take ten bytes a row."""

    lowers_anywhere = True

    def __init__(self, rows: int, *, least: int = 0):
        self.most, self.least = rows, least

    def steps(self, request, rows):
        most = rows.get("rows", self.most)
        memory = StepMemory(own=5, resident=5 + self.least)
        how = dict(limit="rows", rows=most, flops=4000.0, advice="use less")
        return [Step("work", 3, lambda: [Program(most, 3)], lambda: memory, None, **how)]


@pytest.fixture(autouse=True)
def _compiler(monkeypatch):
    traffic = {"all-gather": Traffic(2, 8)}
    found = lambda rows: Examined(5, 5, 10 * rows, traffic, flops=100.0, accessed=20.0)  # noqa: E731
    monkeypatch.setattr(chain_report, "examine", found)


def test_time_is_bounded_by_what_takes_longest():
    report = estimate_chain(Rows(4), None, chip=CHIP, devices=2)
    (step,) = report.steps
    assert step.flops == 2000.0  # half of what was counted from sizes, which is more than the compiler's 300
    assert step.read == 60.0 and step.sent == 24
    assert report.seconds == (20.0, 26.0)
    assert report.fits and "20.0 to 26.0 s" in describe(report)


def test_so_few_rows_go_together_that_they_fit():
    report = estimate_chain(Rows(16), None, chip=CHIP, devices=2)
    assert report.steps[0].step.rows == 4 and report.fits


def test_what_cannot_fit_says_so():
    report = estimate_chain(Rows(4, least=100), None, chip=CHIP, devices=2)
    assert not report.fits and report.steps[0].step.rows == 1
    assert "does not fit: work needs" in describe(report) and "use less" in describe(report)


@needs_libtpu
@pytest.mark.slow
def test_a_snapshot_is_compiled_for_chips_that_do_not_share_everything_equally(tmp_path):
    """Six rows of latents by four, three channels by two, one row of the batch by two. In a process of its own: libtpu
    does not know the flags of CPUs, and JAX's profiler crashes beside it."""
    weights = str(write_snapshot(tmp_path / "t2v", "x_pipeline_t2v"))
    command = ["plan", "generate", "a cat", "--weights", weights, "--topology", "v5e:2x4", "--fsdp", "2"]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = [sys.executable, "-m", "cogvideo_jax", *command, "--sequence", "4", "--frames", "9", "--size", "48x64"]
    said = subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout
    assert "prediction" in said and "all-to-all" in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith(("text", "denoising"))] == ["1", "50"]


def test_the_first_family_cannot_be_compiled_for_other_devices():
    from cogvideo_jax import load

    with pytest.raises(ValueError, match="leave --topology out"):
        estimate_chain(load().sampler, None, chip=CHIP, devices=2)
