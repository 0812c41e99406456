"""`cogvideo bench pipeline`: every part of a video is timed."""

from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.models.cogvideo.bench import pipeline
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo

MACHINE = Machine("a machine", bandwidth=1e9, reads=1e9, flops=2e9)


def test_a_pipeline_is_measured_part_by_part(enlarging):
    row = pipeline.measure_pipeline(lambda: TextToVideo.load(enlarging), machine=MACHINE, batch=1)
    assert row.frames == 33 and row.again == row.key_frames + row.interpolation + row.superres + row.pixels
    assert min(row.load, row.compile, row.first, row.key_frames, row.interpolation, row.superres, row.pixels) > 0
    assert pipeline.cells(row)["frames"] == "33"
