"""Random damages of files."""

import random

TOKENS = (
    b'"',
    b"[",
    b"{",
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud83d",
    b"[" * 9999,
    b"9" * 400,
)
OTHERS = (
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"../",
    b"/etc/",
    "红".encode("gbk"),
    "é".encode("latin-1"),
    b'"' * 3,
    b"a" * 300,
)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few random damages."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        before, part, after = content[:place], content[place:end], content[end:]
        token = rng.choice(TOKENS + OTHERS)
        cut, doubled, moved = (before, before + after), before + part * 2 + after, after + before + part
        other = before + token + part + after, before + token + part[1:] + after
        noise = before + rng.randbytes(1) + part[1:] + after, before + rng.randbytes(rng.randrange(9)) + after
        content = rng.choice((*cut, doubled, moved, *other, *noise))
    return content
