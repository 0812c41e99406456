"""Tokens of T5: SentencePiece ids (`spiece.model`), an end of text, and pads on the right.

In: prompts. Out: ids [B, S]. Id 0 is the pad, 1 the end of text, 2 an unknown piece, as in every release of T5. The
100 sentinels `<extra_id_0>` ... of pre-training are no pieces of the model file; a prompt that spells one gets the
pieces of its characters.  # Differs from transformers, which gives sentinels and `</s>` in a prompt their own ids
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Int
from cogvideo_jax.runtime.files import read_bytes

PAD, EOS = 0, 1
LARGEST_FILE = 16 << 20  # bytes; the released file has 0.8 million


class T5Text:
    """SentencePiece model of T5.

    Attributes:
      pieces: number of ids that a prompt can have; the embedding table of a release has more rows.

    Args:
      model: the serialised model.
      name: of the model in errors.

    Raises:
      UserError: `model` is not a SentencePiece model, or its pad and end of text are not 0 and 1.
    """

    def __init__(self, model: bytes, *, name: str = "the T5 text model"):
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, OSError) as error:  # a library of C++, whose words may be no UTF-8
            raise UserError(f"{name} is not a SentencePiece model") from error
        self.pieces = self._model.GetPieceSize()
        found = self._model.pad_id(), self._model.eos_id()
        if found != (PAD, EOS):
            raise UserError(
                f"{name} is not a model of T5: its pad and end of text should be ids {PAD} and {EOS}, "
                f"not {found[0]} and {found[1]}"
            )

    @classmethod
    def from_file(cls, path: str | Path) -> "T5Text":
        """Reads `spiece.model`. Raises UserError if it is missing or not a model of T5."""
        return cls(read_bytes(path, limit=LARGEST_FILE), name=str(path))

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt of any length, the end of text last."""
        return [*self._model.EncodeAsIds(prompt), EOS]

    def padded(self, prompts: Sequence[str], length: int) -> Int[np.ndarray, "B S"]:
        """Ids of prompts in rows of `length`; a longer prompt is cut before its end of text, see `cut`.

        "a cat" in 6 ids:  a cat </s> <pad> <pad> <pad>
        "" in 6 ids:       </s> <pad> <pad> <pad> <pad> <pad>
        """
        if length < 1:
            raise UserError(f"a text needs room for its end: a length of at least 1, got {length}")
        ids = np.full((len(prompts), length), PAD, np.int32)
        for row, prompt in zip(ids, prompts):
            found = self.encode(prompt)
            kept = found if len(found) <= length else [*found[: length - 1], EOS]
            row[: len(kept)] = kept
        return ids

    def cut(self, prompt: str, length: int) -> int:
        """Number of ids that `padded` drops from a prompt."""
        return max(0, len(self.encode(prompt)) - length)
