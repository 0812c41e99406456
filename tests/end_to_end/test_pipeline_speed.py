"""`cogvideo bench pipeline`: every step of a video is timed."""

from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.bench.pipeline import measure_pipeline
from cogvideo_jax.text_to_video import load

MACHINE = Machine("a machine", bandwidth=1e9, reads=1e9, flops=2e9)


def test_a_pipeline_is_measured_step_by_step(enlarging):
    row = measure_pipeline(lambda: load(enlarging).sampler, machine=MACHINE, batch=1)
    names = ["first frame", "key frames", "9 frames", "17 frames", "33 frames", "super-resolution", "pixels"]
    figures = row.figures
    assert figures["frames"] == 33 and list(figures["steps"]) == names
    assert min(figures["load"], figures["compile"], figures["first"], *figures["steps"].values()) > 0
    assert row.cells["frames"] == "33"
