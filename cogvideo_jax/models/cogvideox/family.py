"""CogVideoX (2024) for the registry. Everything heavy is imported where it is used."""

from collections.abc import Iterator
from pathlib import Path

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Family, Opening, Sampler
from cogvideo_jax.models.cogvideox.bench.benchmarks import BENCHMARKS, SIZES
from cogvideo_jax.models.cogvideox.convert.arguments import CONVERT


def open_folder(folder: Path, opening: Opening) -> Sampler:
    """A diffusers snapshot as a sampler. Raises UserError if something is missing, damaged or does not fit."""
    from cogvideo_jax.models.cogvideox.pipeline import CogVideoXSampler
    from cogvideo_jax.models.cogvideox.snapshot import Snapshot

    return CogVideoXSampler(Snapshot(folder, dtype=opening.dtype, **_how(opening)))


def _how(opening: Opening) -> dict[str, bool]:
    if opening.growing_cache or "cache" in opening.int8:
        raise UserError("CogVideoX keeps no cache of keys and values; leave out what is said of one")
    return dict(keep=not opening.one_stage_at_a_time, int8="weights" in opening.int8)


def check_folder(folder: Path) -> Iterator[str]:
    """A sentence for each file of a snapshot that is missing, damaged or does not fit; reads every tensor."""
    from cogvideo_jax.models.cogvideox.damages import damages

    yield from damages(folder)


def random_sampler(size: str, opening: Opening) -> Sampler:
    """Random weights of a size, for benchmarks."""
    from cogvideo_jax.models.cogvideox.bench import sizes
    from cogvideo_jax.models.cogvideox.pipeline import CogVideoXSampler

    random = sizes.RandomSnapshot(sizes.SIZES[size], dtype=opening.dtype or "float32", **_how(opening))
    return CogVideoXSampler(random)


FAMILY = Family(
    "cogvideox",
    open_folder,
    random=random_sampler,
    sizes=SIZES,
    benchmarks=BENCHMARKS,
    convert=CONVERT,
    check=check_folder,
)
