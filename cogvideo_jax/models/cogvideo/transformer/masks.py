"""Attention masks as NumPy functions of the layout (paper figure 4). True means "may look at".

Two rules make all masks. *Slots*: a query sees every context slot in full, earlier generated slots in full, and its own
slot up to itself; a context slot sees context slots only. *Windows*: in the temporal channel, query and key must be in
the same window; in shifted layers, also on the same side of the picture's border ("region").
"""

import numpy as np

from cogvideo_jax.notation import Bool, Int


def within_frame(slots: int, context_slots: int, frame_tokens: int) -> Bool[np.ndarray, "T N N"]:
    """Mask of the spatial channel within a frame: full in context slots, causal in generated slots.

    context  1 1 1      generated  1 0 0
             1 1 1                 1 1 0
             1 1 1                 1 1 1
    """
    causal = np.tril(np.ones((frame_tokens, frame_tokens), bool))
    is_context = np.arange(slots)[:, None, None] < context_slots
    return np.where(is_context, True, causal)


def across_frames(slots: int, context_slots: int, tokens: int) -> Bool[np.ndarray, "Q Q"]:
    """Mask of the temporal channel over slots of `tokens` tokens each (a frame or one window), Q = slots * tokens.

    Stage 2 with one token a slot (three context slots, two generated):

        c c c g g
        1 1 1 0 0
        1 1 1 0 0
        1 1 1 0 0
        1 1 1 1 0
        1 1 1 1 1

    Without context slots this is the causal triangle of stage 1.
    """
    length = slots * tokens
    causal = np.tril(np.ones((length, length), bool))
    is_context = np.arange(length) // max(tokens, 1) < context_slots
    return causal | (is_context[:, None] & is_context[None, :])


def window_order(grid: int, window: int, *, shifted: bool) -> Int[np.ndarray, "windows tokens"]:
    """Tokens of a frame that form each window, in row-major order.

    Shifted layers roll the grid up and left by half a window first, so the last windows wrap around the border.
    """
    roll = window // 2 if shifted else 0
    index = np.roll(np.arange(grid * grid).reshape(grid, grid), (-roll, -roll), (0, 1))
    count = grid // window
    blocks = index.reshape(count, window, count, window).transpose(0, 2, 1, 3)
    return blocks.reshape(count * count, window * window)


def window_labels(grid: int, window: int | None, *, shifted: bool) -> Int[np.ndarray, "N"]:
    """Region label of each token of a frame; tokens with equal labels see each other. `window=None` gives one label.

    Row labels of a grid of 4 with windows of 2 (columns likewise): plain `a a b b`, shifted `a b b c`. In the latter
    the first and the last row share a window but are in different regions.
    """
    if window is None:
        return np.zeros(grid * grid, np.int32)
    roll = window // 2 if shifted else 0
    line = (np.arange(grid) - roll) // window + 1
    return (line[:, None] * (grid // window + 1) + line[None, :]).reshape(-1).astype(np.int32)


def smallest_lag(grid: int, window: int) -> int:
    """Smallest number of tokens by which a frame must follow the one before it to be decoded in parallel.

    A token at p sees its own window of earlier frames, in plain and in shifted layers. The last token q of these
    windows must be written before p is read, so the lag is the largest q - p: 189 of 400 for windows of 10 x 10 in
    20 x 20.
    """
    place = np.arange(grid * grid)
    lags = []
    for shifted in (False, True):
        labels = window_labels(grid, window, shifted=shifted)
        last = np.asarray([place[labels == label].max() for label in labels])
        lags.append(int((last - place).max()))
    return max(lags)
