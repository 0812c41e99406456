"""The parts of a folder of weights, and which of them an official checkpoint is."""

import re
from enum import StrEnum

from cogvideo_jax.convert.checkpoint_files import Checkpoint
from cogvideo_jax.errors import ConversionError, UserError
from cogvideo_jax.models.cogvideo.convert import superres_names, transformer_names


class Part(StrEnum):
    """What a checkpoint is for; also the name of our file."""

    BASE = "base"
    STAGE1 = "stage1"
    STAGE2 = "stage2"
    SUPERRES = "superres"
    ITERSR = "itersr"
    TOKENIZER = "tokenizer"


STAGES = (Part.STAGE1, Part.STAGE2)


def table_of(part: Part) -> transformer_names.Table:
    """Our path -> rule, of a part that is a transformer."""
    match part:
        case Part.BASE:
            return transformer_names.base_rules()
        case Part.STAGE1 | Part.STAGE2:
            return transformer_names.video_rules()
        case Part.SUPERRES | Part.ITERSR:
            return superres_names.rules(direct=part == Part.SUPERRES)
    raise UserError(f"{part} is no transformer")


def find_part(checkpoint: Checkpoint, asked: Part | None) -> Part:
    """The part by its names; stage 1 and 2 have the same names, so their number comes from elsewhere.

    Args:
      asked: what the user says it is.

    Raises:
      ConversionError: the names are those of no part, or not of the one asked for; or the stage stays unknown.
    """
    fitting = _fitting(checkpoint)
    if asked is not None and asked not in fitting:
        raise ConversionError(f"{checkpoint.source} is not {asked}: by its names it is {' or '.join(fitting)}")
    if asked is not None or len(fitting) == 1:
        return asked or fitting[0]
    stage = checkpoint.settings.get("cogvideo_stage")
    if stage is None:
        told = set(re.findall(r"stage[-_ ]?([12])", checkpoint.source.resolve().name.lower()))
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
            f"{checkpoint.source} is no model of CogVideo or CogView2: its names begin with {few or 'none'}"
        )
    if "cogvideo_stage" in checkpoint.settings or any(".attn_distribution." in name for name in names):
        return STAGES
    if any(name.startswith("mixins.attention_plus.") for name in names):
        return (Part.SUPERRES,)
    if any(name.startswith("mixins.extra_position_embedding.") for name in names):
        return (Part.ITERSR,)
    return (Part.BASE,)
