"""Judge of text agreement: recognises object, colour, action and path in a video of one drawn object.

The clips of data/motion are so simple that a program sees what a person sees (in the paper people judged, section 5.2).
The judge knows the sprites and the fourteen motions, both taken from drawn clips, but neither caption nor start.

    frames -> colour of the ink -> ink on every pixel -> window around its centroid -> distance to known views
           -> object (the frames vote) -> centre and side in every frame -> action whose path fits best

Views are a drawing in its nine sides, and in its eight angles at the usual side.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Bool, Float, Int, UInt8

NONE = "none"
LENGTHS = (5, 9, 17, 33)  # frames of a whole clip at 1, 2, 4 and 8 frames/s
WINDOW = 32  # pixels; fits the largest sprite, a turned square, with its centroid in the middle
BOX = 24  # pixels; the object is in the box of this side with most ink
FAINT = 0.1  # ink below this is the decoder's noise
EMPTY = 4.0  # full pixels of ink; less is an empty frame. The faintest object, a purple four of side 8, has 11.3
KEPT = 0.8  # share of the frames that count; the worst fifth does not

# Largest distance of an action, in pixels of centre and side together; beyond it the action is "none". Decoded clips
# are 0.03 off (all below 0.2), an object that stands still 2.8, and so is each action from all others.
ACTION_TOLERANCE = 2.0
# Largest mismatch of an object (0 same, 1 nothing in common); beyond it the object is "none". Decoded clips have
# 0.001 (all below 0.01), a ring 0.26, random dots 0.36.
OBJECT_TOLERANCE = 0.15
# Angles in any order fit better by chance than those of a turn, so they are penalised. The smallest mismatch that must
# still be noticed is 0.08, of a spinning triangle taken for an upright one.
FREE_FACTOR, FREE_CHARGE = 1.25, 0.01


class Judgement(NamedTuple):
    """Recognised contents of a video; a name is "none" if nothing known fits."""

    object: str  # key of motion.OBJECTS
    colour: str  # the nearest key of motion.COLOURS; "none" only in an empty video
    action: str  # key of motion.ACTIONS
    centres: Float[np.ndarray, "T 2"]  # (x, y) as in draw.path, nan in empty frames
    sides: Float[np.ndarray, "T"]  # of the upright square as in draw.sides, nan in empty frames
    empty_frames: int


def judge(frames: UInt8[np.ndarray, "T 64 64 3"]) -> Judgement:
    """Recognises the contents of a video.

    Args:
      frames: a whole clip of 4 seconds in 5, 9, 17 or 33 evenly spaced frames.

    Raises:
      UserError: another shape, type or number of frames.
    """
    size = motion.SIZE
    if frames.ndim != 4 or frames.shape[1:] != (size, size, 3) or frames.dtype != np.uint8:
        raise UserError(f"frames must be uint8 [T, {size}, {size}, 3], got {frames.dtype} {frames.shape}")
    if len(frames) not in LENGTHS:
        raise UserError(f"a clip must have one of {LENGTHS} frames, got {len(frames)}")
    track = np.full((len(frames), 3), np.nan)  # x, y, side
    strength = _strength(frames)
    full = strength.sum((1, 2)) > EMPTY
    if not full.any():
        return Judgement(NONE, NONE, NONE, track[:, :2], track[:, 2], len(frames))
    ink = _ink(frames[full], strength[full])
    windows, centroids = _windows(_alpha(frames[full], strength[full], ink))
    times = np.arange(0, motion.FRAMES, (motion.FRAMES - 1) // (len(frames) - 1))
    thing, views, spin, mismatch = _recognise(windows, times[full])
    known = _known_views()
    shifts = _leftover_shift(windows, known.windows[thing, views])
    track[full, :2] = centroids + shifts + known.offsets[thing, views]
    track[full, 2] = known.sides[views]
    return Judgement(
        known.objects[thing] if mismatch <= OBJECT_TOLERANCE else NONE,
        _nearest_colour(ink),
        _action(track, times, spin),
        track[:, :2],
        track[:, 2],
        int((~full).sum()),
    )


# Ink ----------------------------------------------------------------------------------------------


def _strength(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[np.ndarray, "T H W"]:
    """Distance from white, 0 to 1; specks away from the object are removed."""
    lowest = np.minimum(np.minimum(frames[..., 0], frames[..., 1]), frames[..., 2])
    strength = 1 - lowest.astype(np.float32) / 255
    strength[strength < FAINT] = 0
    return strength * _near_the_most(strength)


def _near_the_most(ink: Float[np.ndarray, "T H W"]) -> Bool[np.ndarray, "T H W"]:
    """Mask of the square of side WINDOW around the box with most ink, which excludes specks elsewhere."""
    size = ink.shape[1]
    sums = np.pad(ink.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    boxes = sums[:, BOX:, BOX:] - sums[:, :-BOX, BOX:] - sums[:, BOX:, :-BOX] + sums[:, :-BOX, :-BOX]
    # many boxes contain a small object: take their middle
    best = boxes >= boxes.max((1, 2), keepdims=True) - 1e-2
    places = np.arange(boxes.shape[1])
    count = best.sum((1, 2))
    middles = ((best.sum(axis) * places).sum(-1) / count + BOX / 2 for axis in (2, 1))
    rows, columns = (np.abs(np.arange(size) + 0.5 - middle[:, None]) <= WINDOW / 2 for middle in middles)
    return rows[:, :, None] & columns[:, None, :]


def _ink(frames: UInt8[np.ndarray, "T H W 3"], strength: Float[np.ndarray, "T H W"]) -> Float[np.ndarray, "3"]:
    """Colour of the ink as a distance from white (0..255): mean of the strongest pixels, median over the frames."""
    core = strength >= 0.8 * strength.max((1, 2), keepdims=True)
    return np.median([255.0 - frame[mask].mean(0) for frame, mask in zip(frames, core)], axis=0)


def _alpha(
    frames: UInt8[np.ndarray, "T H W 3"], strength: Float[np.ndarray, "T H W"], ink: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "T H W"]:
    """Share of ink on each pixel of the object, 0 to 1."""
    weights = (ink / (ink @ ink)).astype(np.float32)
    alpha = 255 * weights.sum() - frames.astype(np.float32) @ weights
    return np.clip(alpha, 0, 1) * ((alpha >= FAINT) & (strength > 0))


def _nearest_colour(ink: Float[np.ndarray, "3"]) -> str:
    palette = 255.0 - np.asarray([rgb for rgb, _ in motion.COLOURS.values()])
    return list(motion.COLOURS)[int(((palette - ink) ** 2).sum(-1).argmin())]


# Object -------------------------------------------------------------------------------------------


class _Views(NamedTuple):
    """Known pictures: objects times views (side and angle)."""

    objects: list[str]
    sides: Float[np.ndarray, "views"]
    angles: Float[np.ndarray, "views"]  # degrees; nan where only an upright object has this side
    upright: Bool[np.ndarray, "views"]
    windows: Float[np.ndarray, "objects views pixels"]  # as _windows cuts them
    offsets: Float[np.ndarray, "objects views 2"]  # from the centroid to the centre


@functools.cache
def _known_views() -> _Views:
    """Views from growing clips, and from spinning clips without their upright first view."""
    middle = motion.SIZE // 2
    grows = motion.MotionSpec("seven", "black", "grows", (middle, middle))
    spins = dataclasses.replace(grows, action="spins clockwise")
    growth, turn = _firsts(motion.sides(grows)), _firsts(motion.angles(spins))[1:]
    windows, offsets = [], []
    for name in motion.OBJECTS:
        grows, spins = (dataclasses.replace(spec, object=name) for spec in (grows, spins))
        pictures = np.concatenate([motion.render(grows)[growth], motion.render(spins)[turn]])
        strength = _strength(pictures)
        window, centroid = _windows(_alpha(pictures, strength, _ink(pictures, strength)))
        windows.append(window)
        offsets.append(middle - centroid)
    sides = np.concatenate([motion.sides(grows)[growth], motion.sides(spins)[turn]]).astype(float)
    upright = np.arange(len(sides)) < len(growth)
    angles = np.where(sides == motion.SIDE, 0.0, np.nan)
    angles[~upright] = motion.angles(spins)[turn]
    return _Views(list(motion.OBJECTS), sides, angles, upright, np.stack(windows), np.stack(offsets))


def _firsts(values: Float[np.ndarray, "T"] | Int[np.ndarray, "T"]) -> Int[np.ndarray, "N"]:
    """Index of the first frame with each value, in order of values."""
    return np.unique(values, return_index=True)[1]


def _windows(
    alpha: Float[np.ndarray, "T H W"],
) -> tuple[Float[np.ndarray, "T pixels"], Float[np.ndarray, "T 2"]]:
    """Softly blurred windows centred on the centroid of the ink, and the centroids (x, y)."""
    places = np.arange(alpha.shape[1]) + 0.5
    mass = alpha.sum((1, 2))
    centroids = np.stack([(alpha.sum(axis) * places).sum(-1) / mass for axis in (1, 2)], -1)
    corners = centroids - WINDOW / 2
    whole = np.floor(corners).astype(int)
    dx, dy = (corners - whole).astype(np.float32).T[..., None, None]
    margin = WINDOW // 2 + 1
    padded = np.pad(alpha, ((0, 0), (margin, margin), (margin, margin)))
    steps = np.arange(WINDOW + 1) + margin
    rows, columns = whole[:, 1, None] + steps, whole[:, 0, None] + steps
    cut = padded[np.arange(len(alpha))[:, None, None], rows[:, :, None], columns[:, None, :]]
    cut = cut[:, :-1] * (1 - dy) + cut[:, 1:] * dy
    cut = cut[:, :, :-1] * (1 - dx) + cut[:, :, 1:] * dx
    for axis in (1, 2):
        cut = (np.roll(cut, 1, axis) + 2 * cut + np.roll(cut, -1, axis)) / 4
    return cut.reshape(len(alpha), -1), centroids


def _recognise(
    windows: Float[np.ndarray, "T pixels"], times: Int[np.ndarray, "T"]
) -> tuple[int, Int[np.ndarray, "T"], str | None, float]:
    """Object that fits most frames, its view in each, the spin that it shows, and the mean mismatch.

    It may be upright in any sides, turn in one direction, or have sides and angles in any order.
    """
    known = _known_views()
    mismatch = _mismatch(windows, known.windows)
    anything = np.ones((len(windows), len(known.angles)), bool)
    ways = {"upright": anything & known.upright, "anyhow": anything}  # of T views, those that are allowed
    for spin in motion.TURNS:
        angle = motion.angles(motion.MotionSpec("seven", "black", spin, (0, 0)))[times]
        ways[spin] = known.angles == angle[:, None]
    views, costs = {}, {}
    for way, allowed in ways.items():
        masked = np.where(allowed[:, None], mismatch, np.inf)
        views[way] = masked.argmin(-1)  # T objects
        costs[way] = _kept_mean(masked.min(-1).T)
        if way in motion.TURNS:
            costs[way][[name in motion.UNTURNED for name in known.objects]] = np.inf
    charged = np.stack(list((costs | {"anyhow": costs["anyhow"] * FREE_FACTOR + FREE_CHARGE}).values()))
    best, thing = (int(i) for i in np.unravel_index(charged.argmin(), charged.shape))
    way = list(ways)[best]
    return thing, views[way][:, thing], way if way in motion.TURNS else None, float(costs[way][thing])


def _mismatch(
    windows: Float[np.ndarray, "T pixels"], known: Float[np.ndarray, "objects views pixels"]
) -> Float[np.ndarray, "T objects views"]:
    """Mismatch |a - b|^2 / (|a|^2 + |b|^2) of every frame and view: 0 for equal, 1 for nothing in common."""
    flat = known.reshape(-1, known.shape[-1])
    energies = (windows**2).sum(-1)[:, None] + (flat**2).sum(-1)
    return (1 - 2 * windows @ flat.T / energies).reshape(len(windows), *known.shape[:2])


def _kept_mean(errors: Float[np.ndarray, "*any T"]) -> Float[np.ndarray, "*any"] | float:
    """Mean of the KEPT share with the smallest errors."""
    kept = int(np.ceil(KEPT * errors.shape[-1]))
    return np.sort(errors, axis=-1)[..., :kept].mean(-1)


def _leftover_shift(
    windows: Float[np.ndarray, "T pixels"], views: Float[np.ndarray, "T pixels"]
) -> Float[np.ndarray, "T 2"]:
    """Shift of the view that fits the window best; needed because lost or added ink moves the centroid.

    Three Gauss-Newton steps; the view is shifted by its Fourier phases.
    """
    picture, view = (pixels.reshape(-1, WINDOW, WINDOW) for pixels in (windows, views))
    spectrum = np.fft.rfft2(view)
    slope_x, slope_y = 2j * np.pi * np.fft.rfftfreq(WINDOW), 2j * np.pi * np.fft.fftfreq(WINDOW)[:, None]
    shift = np.zeros((len(windows), 2))
    for _ in range(3):
        dx, dy = shift.T[..., None, None]
        moved = spectrum * np.exp(-slope_x * dx - slope_y * dy)
        rest = picture - np.fft.irfft2(moved, (WINDOW, WINDOW))
        both = np.stack([-moved * slope_x, -moved * slope_y], 1)
        slopes = np.fft.irfft2(both, (WINDOW, WINDOW)).reshape(len(windows), 2, -1)
        normal = slopes @ slopes.swapaxes(1, 2) + 1e-6 * np.eye(2)
        step = np.linalg.solve(normal, slopes @ rest.reshape(len(windows), -1, 1))[..., 0]
        shift = np.clip(shift + step, -4, 4)
    return shift


# Action -------------------------------------------------------------------------------------------


def _action(track: Float[np.ndarray, "T 3"], times: Int[np.ndarray, "T"], spin: str | None) -> str:
    """Action whose path fits best, or "none"; a spin needs a turn in the views."""
    possible = {name: way for name, way in _ways().items() if name == spin or name not in motion.TURNS}
    errors = {name: _way_error(track, way[times]) for name, way in possible.items()}
    best = min(errors, key=errors.get)
    return best if errors[best] <= ACTION_TOLERANCE else NONE


@functools.cache
def _ways() -> dict[str, Float[np.ndarray, "33 3"]]:
    """Centre and side (x, y, side) in every frame of every action, from a start at the origin."""
    specs = {action: motion.MotionSpec("square", "black", action, (0, 0)) for action in motion.ACTIONS}
    return {name: np.column_stack([motion.path(spec), motion.sides(spec)]) for name, spec in specs.items()}


def _way_error(track: Float[np.ndarray, "T 3"], way: Float[np.ndarray, "T 3"]) -> float:
    """Mean distance of the KEPT frames from a path with its best start and size; infinite for empty frames."""
    apart = track - way
    full = ~np.isnan(apart[:, 0])
    error = np.full(len(track), np.inf)
    error[full] = np.linalg.norm(apart[full] - np.median(apart[full], axis=0), axis=-1)
    return float(_kept_mean(error))
