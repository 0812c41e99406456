"""Parts of a folder of weights, and the detection of the part that an official checkpoint holds."""

import os
import re
from enum import StrEnum

from cogvideo_jax.convert.checkpoint_files import Checkpoint
from cogvideo_jax.errors import ConversionError, UserError
from cogvideo_jax.models.cogvideo.convert import superres_names, transformer_names


class Part(StrEnum):
    """Part of a folder of weights; also the name of its file."""

    BASE = "base"
    STAGE1 = "stage1"
    STAGE2 = "stage2"
    SUPERRES = "superres"
    ITERSR = "itersr"
    TOKENIZER = "tokenizer"


STAGES = (Part.STAGE1, Part.STAGE2)


def table_of(part: Part) -> transformer_names.Table:
    """Rules of a transformer part, by our path."""
    match part:
        case Part.BASE:
            return transformer_names.base_rules()
        case Part.STAGE1 | Part.STAGE2:
            return transformer_names.video_rules()
        case Part.SUPERRES | Part.ITERSR:
            return superres_names.rules(direct=part == Part.SUPERRES)
    raise UserError(f"{part} is not a transformer")


def find_part(checkpoint: Checkpoint, asked: Part | None) -> Part:
    """Detects the part by its names; stages 1 and 2 share theirs and are told apart by settings or file names.

    Args:
      asked: the part according to the user.

    Raises:
      ConversionError: the names fit no part or another one than asked for, or the stage stays unknown.
    """
    fitting = _fitting(checkpoint)
    if asked is not None and asked not in fitting:
        raise ConversionError(f"{checkpoint.source} is not {asked}; its names are those of {' or '.join(fitting)}")
    if asked is not None or len(fitting) == 1:
        return asked or fitting[0]
    stage = checkpoint.settings.get("cogvideo_stage")
    if stage is None:
        name = os.path.basename(os.path.abspath(checkpoint.source))  # of a link, not of its target
        told = set(re.findall(r"stage[-_ ]?([12])", name.lower()))
        stage = int(told.pop()) if len(told) == 1 else None
    if stage is None:
        raise ConversionError(
            f"{checkpoint.source} could be stage 1 or stage 2; say which with --part stage1 or --part stage2"
        )
    return STAGES[stage - 1]


def _fitting(checkpoint: Checkpoint) -> tuple[Part, ...]:
    names = checkpoint.leaves.keys()
    if any(name.startswith(("enc.", "decs.", "quantize.")) for name in names):
        return (Part.TOKENIZER,)
    if not any(name.startswith("transformer.") for name in names):
        few = ", ".join(repr(name[:60]) for name in sorted(names)[:3])
        raise ConversionError(
            f"{checkpoint.source} is not a model of CogVideo or CogView2; its names begin with {few or 'none'}"
        )
    if "cogvideo_stage" in checkpoint.settings or any(".attn_distribution." in name for name in names):
        return STAGES
    if any(name.startswith("mixins.attention_plus.") for name in names):
        return (Part.SUPERRES,)
    if any(name.startswith("mixins.extra_position_embedding.") for name in names):
        return (Part.ITERSR,)
    return (Part.BASE,)
