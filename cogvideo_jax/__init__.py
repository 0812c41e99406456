"""CogVideo in JAX and Flax: a sentence in, a video out.

    clips -> (text ids, frame ids) -> ClipLayout -> embed -> [spatial | temporal] x layers -> logits -> weighted loss
    prompt -> text ids -> key frames -> interpolate 5 -> 9 -> 17 -> 33 -> fine ids -> VQ decode -> mp4

Rooms, in the order of the data (an arrow `A -> B` lets A import B; `tests/test_rooms.py` holds them):

    tokens      text and video <-> ids                   (imports no other room)
    data        videos on disk -> token batches          -> tokens
    model       ids -> logits                            -> tokens.sequence, tokens.vocab
    training    batches -> parameters                    -> tokens, data, model, superres
    sampling    prompt -> frame ids                      -> tokens, model
    superres    coarse ids -> fine ids                   -> tokens, model, sampling.logits
    evaluation  videos -> figures                        -> tokens, data, text_to_video
    convert     released weights <-> ours                -> tokens, model, superres
    runtime     devices and disks, no model              (imports no room)
    sampling_config.py, weights_folder.py  a folder of weights    -> tokens, model, superres, sampling.logits
    text_to_video.py  prompt -> frames                   -> tokens, model, sampling, superres, the two above
    plan.py     memory of a run                          -> text_to_video and what it runs
    generate.py, assemble.py, cli.py                     -> what they run
"""

__version__ = "0.1.0"


def load(folder=None, **how):
    """Opens weights, by default those of the demo; see `text_to_video.load`."""
    from cogvideo_jax.text_to_video import load

    return load(folder, **how)
