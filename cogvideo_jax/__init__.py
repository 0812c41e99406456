"""Text-to-video models in JAX and Flax.

    prompt -> Request -> Sampler.steps(request) -> Step, Step, ... -> frames -> file    (every family)
    clips  -> cached features -> batches -> Task -> one training loop -> weights        (every part of every family)

Rooms; each may import the first four, and the rooms after its arrow (`tests/test_rooms.py`):

    notation.py       the dimension letters and the named jaxtyping arrays
    errors.py         UserError: mistakes that a user can mend, in one sentence
    interface.py      Request, Step, Sampler, Encoder, Family: the objects that families and tools share
    runtime/          devices, memory, checkpoints, schemas, media files; knows no model

    chain.py          runs a list of steps, plans its memory, predicts its time
    nn/               layers that several families use
    data/             videos on disk -> cached features -> batches; motion/ draws the demo's clips
    convert/          foreign checkpoints, read safely and one tensor at a time
    bench/            what this machine reaches; the report of `cogvideo bench`     -> chain
    training/         batches -> parameters; knows no model                         -> data
    models/
      cogvideo/       2022: a transformer over image tokens                         -> nn, data, training, convert, bench
      registry.py     names all families and opens them by name
    text_to_video.py  the Python entry point: opened weights, videos                -> models/registry, chain
    jobs.py           many prompts -> many files: resumption, records, sheets       -> text_to_video
    evaluation/       whether videos show what was asked for                        -> data, text_to_video
    cli/              the command `cogvideo`                -> all of these but nn, convert and the families themselves
"""

__version__ = "0.1.0"


def load(folder=None, **how):
    """Opens weights, by default those of the demo; see `text_to_video.load`."""
    from cogvideo_jax.text_to_video import load

    return load(folder, **how)
