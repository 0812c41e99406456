"""Text model of a token cache: fitted to its captions, or copied from an existing one."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.token_cache import TokenCache
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Encoder
from cogvideo_jax.models.cogvideo.text import (
    FIRST_FRAME_SUFFIX,
    GUIDANCE_TEXT,
    TextTokenizer,
    duration_phrase,
    fewest_pieces,
    fit_text_model,
    moment_phrase,
)
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.notation import Int, UInt8
from cogvideo_jax.runtime.files import read_bytes, write_bytes

FILE = "text.model"
MOST_PIECES = 1_000_000


def place_text_model(cache: TokenCache, existing: str | Path | None, *, pieces: int, replace: bool = False) -> Path:
    """Writes `text.model` into the cache's folder; one that is there stays, unless it may be replaced.

    Args:
      cache: a finished cache.
      existing: a SentencePiece model to use, e.g. that of weights to be trained further.
      pieces: size of a newly fitted model; more if the captions have more characters.
      replace: take the place of another text model.

    Raises:
      UserError: `existing` is no text model, or another one is there.
    """
    path = cache.path / FILE
    if existing is not None:
        model = read_text_model(existing)
        _require_same(path, model, replace=replace)
    elif path.exists() and not replace:
        return path
    else:
        sentences = _sentences([text for row in range(len(cache)) for text in cache[row].texts])
        model = fit_text_model(sentences, pieces=enough_pieces(sentences, pieces))
    if not path.exists() or read_bytes(path) != model:
        write_bytes(path, model, replace=True)
    return path


def read_text_model(path: str | Path) -> bytes:
    """A serialised SentencePiece model. Raises UserError if the file is missing or something else."""
    model = read_bytes(path)
    try:
        TextTokenizer(model, image_codes=1)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return model


def _require_same(path: Path, model: bytes, *, replace: bool) -> None:
    if not replace and path.exists() and read_bytes(path) != model:
        raise UserError(f"{path} is another text model; choose another folder, or pass --force to replace it")


def enough_pieces(sentences: Sequence[str], pieces: int) -> int:
    """`pieces`, or more if the sentences have more characters, which is said."""
    fewest = fewest_pieces(sentences)
    if fewest > pieces:
        logging.warning("the text model gets %d pieces, not %d: the captions have so many characters", fewest, pieces)
    return max(fewest, pieces)


def _sentences(captions: Sequence[str]) -> list[str]:
    """Captions, with and without the phrases that training puts around them."""
    phrases = [duration_phrase(fps) for fps in frame_rate.PRESET_RATES]
    moments = [moment_phrase(eighth / 8) for eighth in range(33)]
    extras = [*phrases, *moments, GUIDANCE_TEXT, FIRST_FRAME_SUFFIX]
    return [*captions, *extras * max(1, len(captions) // 100)]


class CodeEncoder(Encoder):
    """What `cogvideo tokenize` encodes with: the image tokenizer, and the text model beside the cache.

    Args:
      text_model: an existing one; None fits one of `text_pieces` pieces to the captions.
      replace: take the place of another text model.
    """

    def __init__(self, tokenizer: str, *, text_model: str | None, text_pieces: int, replace: bool = False):
        if not 0 < text_pieces <= MOST_PIECES:
            raise UserError(f"a text model has 1 to {MOST_PIECES} pieces, not {text_pieces}: change --text-pieces")
        self.text_model, self.text_pieces, self.replace = text_model, text_pieces, replace
        self._given = None if text_model is None else read_text_model(text_model)
        self.tokenizer = load_tokenizer(tokenizer)
        self.fingerprint = self.tokenizer.fingerprint

    def begin(self, out: Path, captions: Iterable[str], *, sizes: Sequence[int]) -> None:
        for size in sizes:
            self.tokenizer.tokens_per_frame(size)
        path = out / FILE
        if self._given is not None:
            _require_same(path, self._given, replace=self.replace)
        elif path.exists() and not self.replace:
            read_text_model(path)
        else:
            self.text_pieces = enough_pieces(_sentences(list(captions)), self.text_pieces)

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Int[np.ndarray, "T N"]:
        return np.asarray(self.tokenizer.encode(frames))

    def finish(self, cache: TokenCache) -> None:
        place_text_model(cache, self.text_model, pieces=self.text_pieces, replace=self.replace)
