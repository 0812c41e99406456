"""Text-to-video models in JAX and Flax.

    prompt -> Request -> Sampler.steps(request) -> Step, Step, ... -> frames -> file    (every family)
    clips  -> cached features -> batches -> Task -> one training loop -> weights        (every part of every family)

Rooms (`tests/test_rooms.py` checks which may import which):

    text_to_video.py  the Python entry point
    interface.py      Request, Step, Sampler, Encoder, Family: the objects that families and tools share
    jobs.py           many prompts -> many files: resumption, records, sheets
    notation.py       the dimension letters and the named jaxtyping arrays
    errors.py         UserError: mistakes that a user can mend, in one sentence
    cli/              the command `cogvideo`
    models/           registry.py names the families; each has a folder of its own
      cogvideo/       2022: transformer over image tokens; key frames, interpolation, super-resolution
    nn/               layers that several families use
    data/             videos on disk -> cached features -> batches; motion/ draws the demo's clips
    training/         batches -> parameters; knows no model
    evaluation/       whether videos show what was asked for; motion/ judges the demo's clips
    convert/          foreign checkpoints, read safely and one tensor at a time
    bench/            what this machine reaches; the report of `cogvideo bench`
    runtime/          devices, memory, checkpoints, schemas, media files; knows no model
"""

__version__ = "0.1.0"


def load(folder=None, **how):
    """Opens weights, by default those of the demo; see `text_to_video.load`."""
    from cogvideo_jax.text_to_video import load

    return load(folder, **how)
