"""Prompt <-> text ids by SentencePiece, and the texts of each stage (SPEC of icetk).

The text of both video stages is `duration phrase + <n> + prompt`, its parts tokenised separately and joined; the base
sees the prompt alone. Ids are piece + C, because image codes come first in the shared vocabulary.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.vocab import Vocabulary
from cogvideo_jax.notation import Bool, Int
from cogvideo_jax.runtime.files import read_bytes

NEWLINE = "<n>"
GUIDANCE_TEXT = "视频"  # "video": the unconditional text of classifier-free guidance
FIRST_FRAME_SUFFIX = " 高清摄影"  # "high-definition photograph": asks the base for a clip's first frame
INTERVALS_A_SECOND = 4.0  # a clip of five frames spans four intervals: duration = 4 / fps
NORMALIZATION = "nmt_nfkc_cf"  # SentencePiece's name for: NFKC, case folded
BYTES, SPECIAL = 256, 5  # pieces of every model: bytes, and <unk>, <s>, </s>, <pad>, <n>
WORD_START = "\u2581"
_HAN = re.compile("[\u4e00-\u9fff]")
_BORDER = "\u241f"  # the sign for "unit separator"; marks forced piece borders while a model is fitted


class TextTokenizer:
    """SentencePiece model whose ids start after the image codes.

    Args:
      model: the serialised model.
      image_codes: C.
      name: of the model in errors.

    Raises:
      UserError: `model` is not a SentencePiece model, or lacks `<pad>` or `<n>`.
    """

    def __init__(self, model: bytes, *, image_codes: int, name: str = "the text model"):
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, OSError) as error:  # a library of C++, whose words may be no UTF-8
            raise UserError(f"{name} is not a SentencePiece model") from error
        self.vocabulary = Vocabulary(image_codes, self._pieces.GetPieceSize())
        self.pad_id = self._special("<pad>", name)
        self.newline_id = self._special(NEWLINE, name)

    @classmethod
    def from_file(cls, path: str | Path, *, image_codes: int) -> "TextTokenizer":
        """Reads `*.model`. Raises UserError if it is missing or not a model."""
        return cls(read_bytes(path), image_codes=image_codes, name=str(path))

    def encode(self, text: str) -> list[int]:
        """Ids of one part of a text."""
        return [self.vocabulary.text_id(piece) for piece in self._pieces.EncodeAsIds(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; pads are dropped."""
        pieces = [i - self.vocabulary.image_codes for i in ids if i != self.pad_id]
        return self._pieces.DecodeIds(pieces)

    def spelled_characters(self, text: str) -> list[str]:
        """Characters that the model never saw and spells byte by byte."""
        known = self._pieces.EncodeAsIds
        return sorted({sign for sign in text if any(self._pieces.IsByte(piece) for piece in known(sign))})

    def out_of_vocabulary(self, text: str) -> list[str]:
        """Words of several pieces and characters spelled in bytes: unknown ones, if every known word is one piece."""
        words = set(re.findall(r"[^\W\d_\u4e00-\u9fff]+", text))
        several = {word for word in words if len(self.encode(word)) > 1}
        signs = {
            sign
            for sign in self.spelled_characters(text)
            if sign.isalnum() and not any(sign in word for word in several)
        }
        return sorted(several | signs)

    def _special(self, piece: str, name: str) -> int:
        found = self._pieces.PieceToId(piece)
        if self._pieces.IdToPiece(found) != piece:
            raise UserError(f"{name} has no piece {piece}")
        return self.vocabulary.text_id(found)


def duration_phrase(fps: float) -> str:
    """Phrase before a clip's text that states its frame rate, e.g. 1.0 frames/s -> "4.0秒"."""
    if not fps > 0:
        raise UserError(f"a frame rate must be positive, got {fps}")
    return f"{INTERVALS_A_SECOND / fps:.1f}秒"


def moment_phrase(seconds: float) -> str:
    """Phrase after a caption that tells the base which moment of the clip to show, e.g. 2.0 -> " 2.0秒"."""
    return f" {seconds:.1f}秒"


def clip_text_ids(caption: str, *, fps: float, text: TextTokenizer) -> list[int]:
    """Ids of "{duration}秒" <n> caption, the text of both video stages."""
    return [*text.encode(duration_phrase(fps)), text.newline_id, *text.encode(caption)]


def left_pad_text(
    ids: Sequence[int], *, length: int, pad_id: int
) -> tuple[Int[np.ndarray, "S"], Bool[np.ndarray, "S"]]:
    """Ids padded on the left to `length`, and their mask, False on pads. Longer texts are cut: callers must check."""
    kept = np.asarray(ids[:length], np.int32)
    padded = np.full(length, pad_id, np.int32)
    mask = np.arange(length) >= length - len(kept)
    padded[mask] = kept
    return padded, mask


def fewest_pieces(sentences: Iterable[str]) -> int:
    """Size of the smallest model that has every character of the sentences as a piece."""
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=NORMALIZATION)
    characters = {WORD_START}.union(*map(normalizer.Normalize, sentences))
    return len(characters - {_BORDER}) + BYTES + SPECIAL


def fit_text_model(sentences: Iterable[str], *, pieces: int) -> bytes:
    """Trains a small SentencePiece model (BPE, byte fallback, case folded) and returns it serialised.

    Han characters are never joined. Otherwise a small corpus would make "red ball" one piece, and combinations that it
    lacks would have pieces that nobody trained.

    Args:
      sentences: captions and duration phrases.
      pieces: largest size of the model; 256 pieces are bytes.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=(_HAN.sub(rf"{_BORDER}\g<0>{_BORDER}", sentence) for sentence in sentences),
        pretokenization_delimiter=_BORDER,
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name=NORMALIZATION,
        pad_id=3,
        pad_piece="<pad>",
        user_defined_symbols=[NEWLINE],
        max_sentencepiece_length=24,  # "counterclockwise" has 16 letters and a leading space
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
