"""Text-to-video models in JAX and Flax.

    prompt -> Request -> Sampler.steps(request) -> Step, Step, ... -> frames -> file    (every family)
    clips  -> cached features -> batches -> Task -> one training loop -> weights        (every part of every family)

Rooms, and which others each may import (`tests/test_rooms.py` checks it):

    text_to_video.py  the Python entry point                                   -> chain, models.registry
    jobs.py           many prompts -> many files: resumption, records, sheets  -> text_to_video
    chain.py          running, planning and timing a list of steps
    cli/              the command `cogvideo`                                   -> all but nn, convert and the families
    models/           registry.py names the families; each has a folder of its own, and none imports another
      cogvideo/       2022: transformer over image tokens                   -> nn, data, training, convert, bench, chain
      cogvideox/      2024: diffusion over the latents of a 3-D autoencoder    -> the same, and diffusion
    nn/               layers that several families use
    diffusion/        schedules, samplers, guidance, objective                 -> nn
    data/             videos on disk -> cached features -> batches; motion/ draws the demo's clips
    training/         batches -> parameters; knows no model                    -> data
    evaluation/       whether videos show what was asked for; motion/ judges the demo's clips
                                                                               -> data, text_to_video
    convert/          foreign checkpoints, read safely and one tensor at a time
    bench/            what this machine reaches; the report of `cogvideo bench`  -> chain

Every room may also import:

    interface.py      Request, Step, Sampler, Encoder, Family: the objects that families and tools share
    notation.py       the dimension letters and the named jaxtyping arrays
    errors.py         UserError: mistakes that a user can mend, in one sentence
    runtime/          devices, memory, checkpoints, schemas, media files; knows no model
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvideo_jax.text_to_video import TextToVideo

__version__ = "0.1.0"


def load(folder: str | Path | None = None, **how: Any) -> "TextToVideo":
    """Opens weights, by default those of the demo; see `text_to_video.load`."""
    from cogvideo_jax.text_to_video import load

    return load(folder, **how)
