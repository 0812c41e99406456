"""Id ranges of the shared vocabulary: image codes first, then text pieces, then three specials (SPEC of icetk).

0 .. C-1        image codes of the VQ tokenizer
C .. C+P-1      SentencePiece pieces of the text (piece id + C)
C+P .. C+P+2    <start_of_image>, <start_of_english>, <start_of_chinese>
"""

import dataclasses
from enum import IntEnum

from cogvideo_jax.errors import UserError


class Special(IntEnum):
    """Special tokens, numbered from the end of the text pieces."""

    START_OF_IMAGE = 0
    START_OF_ENGLISH = 1
    START_OF_CHINESE = 2


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Id ranges. Released models have 20,000 image codes and 130,000 text pieces.

    Attributes:
      image_codes: C, size of the VQ code book.
      text_pieces: P, size of the SentencePiece model.
    """

    image_codes: int
    text_pieces: int

    @property
    def size(self) -> int:
        """Number of ids in use; the embedding table may have spare rows after them."""
        return self.image_codes + self.text_pieces + len(Special)

    def special(self, token: Special) -> int:
        """Id of a special token."""
        return self.image_codes + self.text_pieces + int(token)

    @property
    def boi(self) -> int:
        """Id of <start_of_image>, the input that starts every frame."""
        return self.special(Special.START_OF_IMAGE)

    def text_id(self, piece: int) -> int:
        """Id of a SentencePiece piece."""
        if not 0 <= piece < self.text_pieces:
            raise UserError(f"text piece {piece} is outside 0..{self.text_pieces - 1}")
        return self.image_codes + piece
