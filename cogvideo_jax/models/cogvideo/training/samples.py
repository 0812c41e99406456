"""Clips that a transformer makes while it trains, with the other parts of a finished folder of weights."""

import tempfile
from pathlib import Path

import numpy as np

from cogvideo_jax import chain
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import make_request
from cogvideo_jax.models.cogvideo.assemble import save_part
from cogvideo_jax.models.cogvideo.descriptions import OWN_BASE
from cogvideo_jax.models.cogvideo.pipeline import IMAGE, KEY_FRAMES, VIDEO, CogVideoSampler
from cogvideo_jax.models.cogvideo.training.config import BackboneConfig, StageConfig
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS, ITERSR, SUPERRES, WeightsFolder
from cogvideo_jax.notation import PyTree
from cogvideo_jax.training.samples import Sample

OUTPUTS = {"base": IMAGE, "stage1": KEY_FRAMES}  # no further than the part that trains is needed


def sample_clips(config: BackboneConfig, trained: PyTree, description: dict) -> list[Sample]:
    """One clip, or picture, a prompt.

    Args:
      trained: parameters as they are exported, in host memory.
      description: of their file.
    """
    with tempfile.TemporaryDirectory(prefix="cogvideo_samples_") as name:
        folder, own = Path(name), {f"{config.part}{end}.safetensors" for end in ("", OWN_BASE)}
        finished = {file.name: file for file in weights_folder(config).iterdir() if file.name not in own}
        if isinstance(config, StageConfig):
            finished["base.safetensors"] = Path(config.base)
        for own_name, file in finished.items():
            (folder / own_name).symlink_to(file.resolve())
        save_part(folder, config.part, trained, description)
        return make_samples(folder, config)


def make_samples(folder: Path, config: BackboneConfig) -> list[Sample]:
    """Samples the prompts of a config with the weights in a folder."""
    sampler, prompts = CogVideoSampler(WeightsFolder(folder)), config.samples.prompts
    output, superres = OUTPUTS.get(config.part, VIDEO), config.part in (SUPERRES, ITERSR)
    request = make_request(prompts=prompts, seeds=(config.seed,) * len(prompts), output=output, superres=superres)
    made = chain.run(sampler.steps(request))
    return [Sample(np.asarray(frames), None if output == IMAGE else made.fps) for frames in made.frames]


def check_samples(config: BackboneConfig) -> None:
    """Raises UserError if samples are asked for that the weights beside the part cannot make."""
    if not config.samples.every:
        return
    weights, folder = WeightsFolder(weights_folder(config)), config.samples.weights or "the demo's"
    found = weights.models.get(config.part)
    if found is None and config.part == ITERSR:
        raise UserError(f"samples.weights={folder!r} does not use itersr; name another folder, or set samples.every=0")
    if found is not None and found.config != config.model:
        raise UserError(
            f"samples.weights={folder!r} has a {config.part} of other sizes than `model`; name a folder of the same "
            "sizes, or set samples.every=0"
        )
    request = make_request(prompts=config.samples.prompts)
    CogVideoSampler(weights).check_prompts(request)


def weights_folder(config: BackboneConfig) -> Path:
    """Folder of finished weights; "" is the demo's."""
    return Path(config.samples.weights or DEMO_WEIGHTS)
