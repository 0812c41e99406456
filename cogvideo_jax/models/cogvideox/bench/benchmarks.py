"""Benchmarks of CogVideoX for `cogvideo bench`: their options; the other files of this folder measure."""

from typing import Any

from cogvideo_jax.bench.report import Measured
from cogvideo_jax.interface import Benchmark, size_of

SIZES = ("middle", "2b", "5b", "1.5-5b")
PARTS = ("text", "denoising", "pixels")


def _add_diffusion(parser: Any) -> None:
    parser.add_argument("--size", choices=SIZES, default="middle", help="of random weights")
    parser.add_argument("--steps", nargs="+", choices=PARTS, default=PARTS, metavar="STEP", help=", ".join(PARTS))
    parser.add_argument("--frames", type=int, help="of a clip; by default what the model is made for")
    parser.add_argument("--pixels", metavar="HEIGHTxWIDTH", help="of the frames; by default the same")
    parser.add_argument("--beside-diffusers", action="store_true", help="time the same in diffusers, in float32")


def _add_clip(parser: Any) -> None:
    parser.add_argument("--size", choices=SIZES, default="middle", help="of random weights")
    parser.add_argument("--steps", type=int, default=10, help="of denoising")
    parser.add_argument("--frames", type=int, help="of the clip; by default what the model is made for")
    parser.add_argument("--pixels", metavar="HEIGHTxWIDTH", help="of the frames; by default the same")


def _settings(options: Any) -> list[dict[str, Any]]:
    return [dict(what=what, batch=batch) for what in options.steps for batch in options.batch or (1,)]


def _measure(options: Any, **setting: Any) -> Measured:
    from cogvideo_jax.models.cogvideox.bench import diffusion, sizes

    pixels = size_of(options.pixels, option="--pixels") if options.pixels else None
    how = dict(frames=options.frames, pixels=pixels, beside=options.beside_diffusers)
    row = diffusion.measure_step(sizes.SIZES[options.size], dtype=options.dtype, **how, **setting)
    return Measured(row._asdict(), diffusion.cells(row))


def _measure_clip(options: Any, **how: Any) -> Measured:
    from cogvideo_jax.models.cogvideox.bench import clip, sizes

    pixels = size_of(options.pixels, option="--pixels") if options.pixels else None
    asked = dict(steps=options.steps, frames=options.frames, pixels=pixels)
    row = clip.measure_clip(sizes.SIZES[options.size], **asked, **how)
    return Measured(row._asdict(), clip.cells(row))


BENCHMARKS = {
    "diffusion": Benchmark("T5, the denoising and the autoencoder", _add_diffusion, _settings, _measure),
    "clip": Benchmark("a whole clip beside diffusers", _add_clip, lambda options: [{}], _measure_clip),
}
