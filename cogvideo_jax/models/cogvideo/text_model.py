"""Text model of a token cache: fitted to its captions, or copied from an existing one."""

from pathlib import Path

import numpy as np

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.cache import TokenCache
from cogvideo_jax.interface import Encoder
from cogvideo_jax.models.cogvideo.text import (
    FIRST_FRAME_SUFFIX,
    GUIDANCE_TEXT,
    TextTokenizer,
    duration_phrase,
    fit_text_model,
    moment_phrase,
)
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.notation import Int, UInt8
from cogvideo_jax.runtime.files import read_bytes, write_bytes

FILE = "text.model"


def place_text_model(cache: TokenCache, existing: str | Path | None, *, pieces: int) -> Path:
    """Writes `text.model` into the cache's folder, unless it exists.

    Args:
      cache: a finished cache.
      existing: a SentencePiece model to use, e.g. that of weights to be trained further.
      pieces: size of a newly fitted model.
    """
    path = cache.path / FILE
    if existing is not None:
        model = read_bytes(existing)
    elif path.exists():
        return path
    else:
        model = fit_text_model(_sentences(cache), pieces=pieces)
    TextTokenizer(model, image_codes=1)  # raises UserError if it is not a text model
    write_bytes(path, model, replace=True)
    return path


def _sentences(cache: TokenCache) -> list[str]:
    """Captions, with and without the phrases that training puts around them."""
    captions = [text for row in range(len(cache)) for text in cache[row].texts]
    phrases = [duration_phrase(fps) for fps in frame_rate.PRESET_RATES]
    moments = [moment_phrase(eighth / 8) for eighth in range(33)]
    extras = [*phrases, *moments, GUIDANCE_TEXT, FIRST_FRAME_SUFFIX]
    return captions + extras * max(1, len(captions) // 100)


class CodeEncoder(Encoder):
    """What `cogvideo tokenize` encodes with: the image tokenizer, and the text model beside the cache.

    Args:
      text_model: an existing one; None fits one of `text_pieces` pieces to the captions.
    """

    def __init__(self, tokenizer: str, *, text_model: str | None, text_pieces: int):
        self.tokenizer = load_tokenizer(tokenizer)
        self.fingerprint = self.tokenizer.fingerprint
        self.text_model, self.text_pieces = text_model, text_pieces

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Int[np.ndarray, "T N"]:
        return np.asarray(self.tokenizer.encode(frames))

    def finish(self, cache: TokenCache) -> None:
        place_text_model(cache, self.text_model, pieces=self.text_pieces)
