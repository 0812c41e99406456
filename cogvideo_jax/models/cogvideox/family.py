"""CogVideoX (2024) for the registry. Everything heavy is imported where it is used."""

from pathlib import Path

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Family, Opening, Sampler


def open_folder(folder: Path, opening: Opening) -> Sampler:
    """A diffusers snapshot as a sampler. Raises UserError if something is missing, damaged or does not fit."""
    from cogvideo_jax.models.cogvideox.pipeline import CogVideoXSampler
    from cogvideo_jax.models.cogvideox.snapshot import Snapshot

    if opening.growing_cache or "cache" in opening.int8:
        raise UserError("CogVideoX keeps no cache of keys and values; leave out what is said of one")
    how = dict(dtype=opening.dtype, keep=not opening.one_stage_at_a_time, int8="weights" in opening.int8)
    return CogVideoXSampler(Snapshot(folder, **how))


FAMILY = Family("cogvideox", open_folder)
