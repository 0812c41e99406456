"""One form of every prompt and caption, whoever typed it."""

import unicodedata

SINGLE, DOUBLE = "\u2018\u2019\u201a\u201b\u02bc", "\u201c\u201d\u201e\u201f"  # typographic quotes
UNSEEN = "\ufeff\u200b\u2060\u00ad"  # byte order mark, zero-width space, word joiner, soft hyphen
CHANGED = str.maketrans(dict.fromkeys(SINGLE, "'") | dict.fromkeys(DOUBLE, '"') | dict.fromkeys(UNSEEN))


def plain_text(text: str) -> str:
    """A prompt or a caption as models see it.

    - Composed characters (Unicode NFC): e and a combining accent become one letter.
    - Typographic quotes and apostrophes become " and '.
    - Every run of white space, with line ends and wide spaces, becomes one space; none at the ends.
    - Byte order marks, zero-width spaces, soft hyphens and control characters disappear.
    """
    text = unicodedata.normalize("NFC", text).translate(CHANGED)
    return " ".join("".join(sign for sign in text if sign.isspace() or unicodedata.category(sign) != "Cc").split())
