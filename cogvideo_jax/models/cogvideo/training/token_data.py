"""Token cache and text model of a config, opened and held against the sizes of its model."""

from typing import NamedTuple

from cogvideo_jax.data.token_cache import TokenCache
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.training.config import BackboneConfig, StageConfig
from cogvideo_jax.runtime.weights import read_description


class OpenData(NamedTuple):
    """What examples are made of."""

    cache: TokenCache
    text: TextTokenizer


def open_data(config: BackboneConfig) -> OpenData:
    """Opens both; reads no clip.

    Raises:
      UserError: a file is missing, or grids, vocabularies, tokenizers or lengths do not fit.
    """
    model = config.model
    cache = TokenCache(config.data.cache)
    text = TextTokenizer.from_file(config.data.text_model, image_codes=model.image_codes)
    grid = model.fine_grid if isinstance(model, SuperResolutionConfig) else model.layout.grid
    if cache.grid != grid:
        raise UserError(f"the token cache has {cache.grid} x {cache.grid} tokens a frame, the model {grid}")
    if text.vocabulary.boi > model.boi:
        raise UserError(
            f"the text model has {text.vocabulary.text_pieces} pieces behind {model.image_codes} image codes, "
            f"so boi must be {text.vocabulary.boi} or more; the config has {model.boi}"
        )
    _check_tokenizer(config, cache)
    if isinstance(model, SuperResolutionConfig):
        _check_coarse(model, cache)
    elif isinstance(config, StageConfig):
        _check_lengths(config, cache)
    return OpenData(cache, text)


def _check_tokenizer(config: BackboneConfig, cache: TokenCache) -> None:
    if config.base_file is None:
        return
    made_by = read_description(config.base_file)[1].get("tokenizer")
    if made_by not in (None, cache.fingerprint):
        raise UserError(
            f"{config.base_file} was trained on codes of the tokenizer {made_by}, and the token cache "
            f"{config.data.cache} holds those of {cache.fingerprint}; tokenize with the tokenizer of the base"
        )


def _check_coarse(model: SuperResolutionConfig, cache: TokenCache) -> None:
    if model.coarse and cache.coarse_grid != model.coarse.grid:
        raise UserError(
            f"the model upscales {model.coarse.grid} x {model.coarse.grid} tokens, but the coarse grid of the token "
            f"cache is {cache.coarse_grid}; tokenize with --coarse-size"
        )


def _check_lengths(config: StageConfig, cache: TokenCache) -> None:
    """Every clip must yield enough frames at the highest rate; found here, not in the middle of a run."""
    frames, highest = config.model.layout.frames, max(config.example.rates)
    shortest = cache.meta.shortest_seconds
    intervals = (shortest - 1 / cache.meta.top_fps) * highest
    if round(intervals, 3) < frames - 1:
        raise UserError(
            f"the shortest clip lasts {shortest:g} s, too short for {frames} frames at {highest:g} a second; "
            "add a higher rate to example.rates or leave the clip out"
        )
