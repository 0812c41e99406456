"""T5 and its tokenizer as the transformers library keeps them -> the parts `text_encoder` and `tokenizer`.

Both lie in one folder, as the authors' guide for SAT has it, or in the folders `text_encoder` and `tokenizer` of one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cogvideo_jax.convert.shards import Shards
from cogvideo_jax.convert.torch_part import Storage, TorchPart
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideox.convert.snapshot_files import CONFIG, TOKENIZER, TOKENIZER_FILES, Part, part_of
from cogvideo_jax.models.cogvideox.snapshot import TEXT
from cogvideo_jax.nn.t5 import T5Config, T5Encoder
from cogvideo_jax.nn.t5_text import LARGEST_FILE, T5Text
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.files import read_bytes
from cogvideo_jax.runtime.schemas import parse_json, read_json

COPY = "encoder.embed_tokens.weight"  # of `shared.weight`; files of the encoder alone leave it out
KIND = {"architectures": ["T5EncoderModel"], "model_type": "t5", "feed_forward_proj": "gated-gelu"}


def parts(folder: Path) -> list[Part]:
    """Both parts. Raises UserError if a file is missing or damaged, or is not of T5."""
    encoder, tokenizer = (folder / name if (folder / name).is_dir() else folder for name in (TEXT, TOKENIZER))
    T5Text.from_file(tokenizer / TOKENIZER_FILES[0])
    model = T5Encoder(read_json(encoder / CONFIG, T5Config))

    def init(rng: jax.Array) -> PyTree:
        return model.init(rng, jnp.zeros((1, 2), jnp.int32))["params"]

    opened = TorchPart(init, Shards(encoder), storage=Storage(jnp.float32), ignored=lambda name: name == COPY)
    return [tokenizer_part(tokenizer), part_of(TEXT, opened, config_file(encoder))]


def tokenizer_part(folder: Path) -> Part:
    """The tokenizer's files, as they are."""
    there = [name for name in TOKENIZER_FILES if (folder / name).exists()]
    return Part(TOKENIZER, {name: read_bytes(folder / name, limit=LARGEST_FILE) for name in there})


def config_file(folder: Path) -> Mapping[str, Any]:
    """`config.json` of T5, with what transformers needs to know that it is T5 v1.1."""
    return KIND | read_json(folder / CONFIG, dict)


def require_width(path: Path, texts: list[Part], width: int) -> None:
    """Raises ConversionError if T5, added or there, has states of another width than the transformer reads.

    Args:
      path: `config.json` of the T5 that may be there.
    """
    added = [part.files[CONFIG] for part in texts if part.name == TEXT]
    content = added[0] if added else read_bytes(path) if path.exists() else None
    if content is not None:
        found = parse_json(content, T5Config, where=str(path)).d_model
        if found != width:
            raise ConversionError(
                f"the transformer reads text states of {width} features, but the text encoder makes {found}"
            )
