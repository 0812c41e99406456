"""What of an official `model_config.json` is read here, checked. Keys have their official names."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from cogvideo_jax.convert.checkpoint_files import SETTINGS
from cogvideo_jax.errors import ConversionError, UserError
from cogvideo_jax.models.cogvideo.vq.config import VQConfig
from cogvideo_jax.runtime.schemas import Dropout, Few, Index, Schema, Size, check


def _ends(layout: Any) -> Any:
    """The release writes a list, or a text with commas."""
    if isinstance(layout, str) and re.fullmatch(r"[\d\s,]{1,100}", layout):
        return [int(end) for end in layout.split(",") if end.strip()]
    return layout


class Settings(Schema):
    """All that decides what a model is; None for what the file leaves open. Other keys are not read."""

    model_config = ConfigDict(extra="ignore")

    num_layers: Few | None = None
    hidden_size: Size | None = None
    num_attention_heads: Size | None = None
    inner_hidden_size: Size | None = None
    vocab_size: Size | None = None
    max_sequence_length: Size | None = None
    hidden_dropout: Dropout | None = None
    layout: Annotated[list[Size], Field(max_length=100), BeforeValidator(_ends)] | None = None
    additional_seqlen: Size | None = None
    window_size: Annotated[int, Field(ge=-1, le=1000)] | None = None  # -1: no windows
    cogvideo_stage: Annotated[int, Field(ge=1, le=2)] | None = None
    kernel_size: Few | None = None
    kernel_size2: Few | None = None
    # Differs from the 2022 code: it has none of these; they are for models of other sizes.
    num_image_tokens: Size | None = None
    special_ids: dict[str, Index] | None = None
    first_frame_position: Index | None = None
    kernel_rows: Few | None = None
    tokenizer: VQConfig | None = None


def checked_settings(settings: dict, source: Path) -> dict[str, Any]:
    """Those that are told, by key. Raises ConversionError if one is wrong."""
    try:
        told = check(settings, Settings, where=f"{SETTINGS} of {source}")
    except UserError as error:
        raise ConversionError(str(error)) from error
    return {key: value for key, value in told if value is not None}
