"""Text model of a token cache: fitted to its captions, or copied from an existing one."""

from pathlib import Path

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.cache import TokenCache
from cogvideo_jax.models.cogvideo.text import (
    FIRST_FRAME_SUFFIX,
    GUIDANCE_TEXT,
    TextTokenizer,
    duration_phrase,
    fit_text_model,
    moment_phrase,
)

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
        model = Path(existing).read_bytes()
    elif path.exists():
        return path
    else:
        model = fit_text_model(_sentences(cache), pieces=pieces)
    TextTokenizer(model, image_codes=1)  # raises UserError if it is not a text model
    path.write_bytes(model)
    return path


def _sentences(cache: TokenCache) -> list[str]:
    """Captions, with and without the phrases that training puts around them."""
    captions = [text for row in range(len(cache)) for text in cache[row].texts]
    phrases = [duration_phrase(fps) for fps in frame_rate.PRESET_RATES]
    moments = [moment_phrase(eighth / 8) for eighth in range(33)]
    extras = [*phrases, *moments, GUIDANCE_TEXT, FIRST_FRAME_SUFFIX]
    return captions + extras * max(1, len(captions) // 100)
