"""Descriptions of weights files: JSON beside the arrays, with one schema for each kind of model.

The weights of a training run have all trained parameters. In a folder of weights, PART.safetensors has the additions of
a part to its base, which is that of the folder or its own (PART_base.safetensors).
"""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, model_validator

from cogvideo_jax.convert.check import check_leaves
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.convert.parts import Part, table_of
from cogvideo_jax.models.cogvideo.convert.transformer_names import our_shape
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.vq.config import VQConfig
from cogvideo_jax.runtime.safetensors_stream import Leaf
from cogvideo_jax.runtime.schemas import Digest, Schema, Text
from cogvideo_jax.runtime.weights import read_description

OWN_BASE = "_base"  # suffix of a part's name for its own base


class _Kind(Schema):
    """Fields of every description."""

    model_config = ConfigDict(extra="ignore")

    kind: Text


class TransformerDescription(Schema):
    """Description of the base or a stage.

    Attributes:
      tokenizer: fingerprint of the tokenizer that it was trained with; None if unknown.
      own_base: its base is PART_base.safetensors, not the folder's.
    """

    kind: Literal["base", "stage1", "stage2", "stage1_base", "stage2_base"]
    config: TransformerConfig
    tokenizer: Digest | None = None
    own_base: bool = False

    @model_validator(mode="after")
    def _channels(self) -> "TransformerDescription":
        if self.config.temporal == (self.kind == "base"):
            raise ValueError(f"config.temporal is {self.config.temporal}, which does not fit {self.kind}")
        return self


class SuperResolutionDescription(Schema):
    """Description of direct or iterative super-resolution; attributes as in TransformerDescription."""

    kind: Literal["superres", "itersr", "superres_base", "itersr_base"]
    config: SuperResolutionConfig
    tokenizer: Digest | None = None
    own_base: bool = False

    @model_validator(mode="after")
    def _grids(self) -> "SuperResolutionDescription":
        if (self.config.coarse is None) == self.kind.startswith("superres"):
            raise ValueError(f"config.coarse is {self.config.coarse}, which does not fit {self.kind}")
        return self


class TokenizerDescription(Schema):
    """Description of the image tokenizer."""

    kind: Literal["tokenizer"]
    config: VQConfig


Description = TransformerDescription | SuperResolutionDescription | TokenizerDescription


def read_part(path: str | Path, kind: str) -> tuple[dict[str, Leaf], Description]:
    """Reads types and shapes of a part's leaves, and its description.

    Args:
      kind: the expected part.

    Raises:
      UserError: the file is missing, damaged or has another part, or its description does not fit.
    """
    found = read_description(path, _Kind)[1].kind
    if found != kind:
        wanted = "a tokenizer" if kind == Part.TOKENIZER else repr(str(kind))
        raise UserError(f"{path} holds {found[:40]!r}, not {wanted} (its key kind)")
    return read_description(path, _schema(kind))


def check_part(
    path: str | Path,
    leaves: dict[str, Leaf],
    description: TransformerDescription | SuperResolutionDescription,
) -> None:
    """Compares the leaves of a part, its base included, with its model.

    Raises:
      UserError: leaves are missing, unexpected, misshapen, or not floating-point weights.
    """
    rules = table_of(Part(description.kind))
    shapes = {"/".join(place): our_shape(rule, description.config) for place, rule in rules.items()}
    check_leaves(leaves, shapes, source=path)


def _schema(kind: str) -> type[Description]:
    match Part(kind.removesuffix(OWN_BASE)):
        case Part.TOKENIZER:
            return TokenizerDescription
        case Part.SUPERRES | Part.ITERSR:
            return SuperResolutionDescription
    return TransformerDescription
