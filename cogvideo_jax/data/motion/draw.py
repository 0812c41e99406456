"""Short captioned actions drawn by code: one object on white does one thing for 33 frames at 8 frames/s.

These clips stand in for the 5.4 million captioned videos of the paper. Each caption names a whole action, which a clip
cut short would contradict; that is the reason for the paper's multi-frame-rate training. Four drawn shapes and three
handwritten digits (real, from scikit-learn) in six colours do fourteen things.

Motion is drawn on twos, as animators say: a new picture every second frame, in even pixels. It starts on multiples of
8, so that at the key frames (0, 8, 16, 24, 32) the object is on the 8-pixel grid of the demo's tokenizer and covers a
few whole tokens. x runs to the right, y runs down, positions are centres.

Opposite actions (growing and shrinking, the two spins) show the same pictures at every frame rate, so either of them
can be held out without holding out a picture. Growing and shrinking take two seconds and then rest, so that they show
some pictures more often than others. Otherwise only word and time together, an exclusive-or, would tell them apart.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Float, Int, UInt8

FRAMES = 33
FPS = 8.0
SIZE = 64
SIDE = 16
SPIN_CANVAS = 24  # fits a sprite of SIDE at any angle: 16 * sqrt(2) = 22.6
GRID = 8
HELD_OUT = 2  # actions of each object in each colour that training never sees
SUPERSAMPLING = 8

# name -> (English, Chinese)
OBJECTS = {
    "ball": ("ball", "球"),
    "square": ("square", "方块"),
    "triangle": ("triangle", "三角形"),
    "cross": ("cross", "十字"),
    "three": ("digit three", "数字三"),
    "four": ("digit four", "数字四"),
    "seven": ("digit seven", "数字七"),
}
# Well-formed samples of scikit-learn's load_digits, chosen by eye: rows of its 1,797 images.
DIGIT_ROWS = {"three": 3, "four": 4, "seven": 7}

# name -> (RGB, Chinese)
COLOURS = {
    "red": ((220, 30, 30), "红色"),
    "green": ((20, 150, 50), "绿色"),
    "blue": ((40, 70, 220), "蓝色"),
    "yellow": ((250, 180, 0), "黄色"),
    "purple": ((150, 50, 180), "紫色"),
    "black": ((20, 20, 20), "黑色"),
}

# name -> (English phrases, Chinese phrases); the first of each is the plain wording
ACTIONS = {
    "moves right": (("moves to the right", "moves right"), ("向右移动", "往右走")),
    "moves left": (("moves to the left", "moves left"), ("向左移动", "往左走")),
    "moves up": (("moves up", "rises"), ("向上移动", "上升")),
    "moves down": (("moves down", "sinks"), ("向下移动", "下降")),
    "goes right and comes back": (
        ("goes right and comes back", "goes right and back"),
        ("向右去再回来", "往右走再回来"),
    ),
    "goes left and comes back": (
        ("goes left and comes back", "goes left and back"),
        ("向左去再回来", "往左走再回来"),
    ),
    "bounces right": (("bounces to the right", "bounces right"), ("向右弹跳", "往右弹跳")),
    "bounces left": (("bounces to the left", "bounces left"), ("向左弹跳", "往左弹跳")),
    "jumps": (("jumps up and down", "jumps"), ("上下跳动", "跳")),
    "circles": (("moves in a circle", "circles"), ("转圈移动", "绕圈")),
    "grows": (("grows", "gets bigger"), ("变大", "慢慢变大")),
    "shrinks": (("shrinks", "gets smaller"), ("变小", "慢慢变小")),
    "spins clockwise": (("spins clockwise", "turns clockwise"), ("顺时针旋转", "顺时针转动")),
    "spins counterclockwise": (("spins counterclockwise", "turns counterclockwise"), ("逆时针旋转", "逆时针转动")),
}
TURNS = {"spins clockwise": 45.0, "spins counterclockwise": -45.0}  # degrees every 4 frames, clockwise
UNTURNED = ("ball", "square", "cross")  # never spin, because half the key frames would look alike

# Actions with many pictures of their own, which are learned last.
HARD = ("circles", "grows", "shrinks", "spins clockwise", "spins counterclockwise")

# Actions that show the same pictures of an object between two places of the grid. Training must see one of each set,
# because the tokens of a picture that no clip of this object and colour shows cannot be guessed.
ALIKE = (
    {"moves right", "moves left", "goes right and comes back", "goes left and comes back"},
    {"moves up", "moves down"},
    {"bounces right", "bounces left", "circles"},
    {"grows", "shrinks"},
    {"spins clockwise", "spins counterclockwise"},
)


@dataclasses.dataclass(frozen=True)
class MotionSpec:
    """Specification of a clip, which determines its pixels.

    Attributes:
      object: key of OBJECTS.
      colour: key of COLOURS.
      action: key of ACTIONS.
      start: centre (x, y) in the first frame, multiples of 8 pixels.
    """

    object: str
    colour: str
    action: str
    start: tuple[int, int]


# Combinations -------------------------------------------------------------------------------------


def combinations() -> list[tuple[str, str, str]]:
    """All combinations (object, colour, action)."""
    return [(thing, colour, action) for thing in OBJECTS for colour in COLOURS for action in _actions(thing)]


def _actions(thing: str) -> list[str]:
    return [action for action in ACTIONS if not (thing in UNTURNED and action in TURNS)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def held_out(object: str, colour: str, action: str) -> bool:
    """True for the 15 % of combinations held out from training, which sees any two of their three words together."""
    return action in _held_out_actions(object, colour)


@functools.cache
def _held_out_actions(object: str, colour: str) -> frozenset[str]:
    """HELD_OUT actions chosen by a hash, never a complete set of ALIKE."""
    held: frozenset[str] = frozenset()
    for action in sorted(_actions(object), key=lambda action: _hash(f"{object}/{colour}/{action}")):
        more = held | {action}
        if len(held) < HELD_OUT and not any(alike <= more for alike in ALIKE):
            held = more
    return held


def draw_spec(rng: np.random.Generator, combination: tuple[str, str, str]) -> MotionSpec:
    """Specification of a clip of the combination with a random start."""
    thing, colour, action = combination
    if combination not in combinations():
        raise UserError(f"no such combination of object, colour and action: {combination}")
    xs, ys = start_choices(action)
    return MotionSpec(thing, colour, action, (int(rng.choice(xs)), int(rng.choice(ys))))


def start_choices(action: str) -> tuple[Int[np.ndarray, "X"], Int[np.ndarray, "Y"]]:
    """Starting x and y, multiples of 8, from which the object stays inside the picture."""
    half = _canvas_sides(action)[:, None] // 2
    low = (half - _offsets(action)).max(0)
    high = (SIZE - half - _offsets(action)).min(0)
    return tuple(np.arange(-(-int(a) // GRID) * GRID, int(b) + 1, GRID) for a, b in zip(low, high))


# Motion -------------------------------------------------------------------------------------------

_TWOS = np.arange(FRAMES) // 2 * 2  # frame at which each picture was drawn


@functools.cache
def _offsets(action: str) -> Int[np.ndarray, "33 2"]:
    """Offset of the centre from the start in each frame, in even pixels; curves in multiples of 4."""
    t = _TWOS
    still = np.zeros(FRAMES, int)
    there_and_back = 16 - np.abs(t - 16)
    hop = -_fours(16 * (1 - ((t % 16 - 8) / 8) ** 2))  # ground at 0, 16, 32 and top at 8, 24
    turn = 2 * np.pi * t / (FRAMES - 1)  # clockwise from the top, radius 16
    circle = _fours(16 * np.sin(turn)), _fours(16 - 16 * np.cos(turn))
    ways = {
        "moves right": (t, still),
        "moves left": (-t, still),
        "moves up": (still, -t),
        "moves down": (still, t),
        "goes right and comes back": (there_and_back, still),
        "goes left and comes back": (-there_and_back, still),
        "bounces right": (t, hop),
        "bounces left": (-t, hop),
        "jumps": (still, hop),
        "circles": circle,
    }
    return np.stack(ways.get(action, (still, still)), -1)


def _fours(values: Float[np.ndarray, "33"]) -> Int[np.ndarray, "33"]:
    return 4 * np.rint(values / 4).astype(int)


@functools.cache
def _sides(action: str) -> Int[np.ndarray, "33"]:
    """Side of the object in each frame: from 8 to 24 in two seconds when growing, from 24 to 8 when shrinking."""
    change = np.clip(_TWOS - 4, 0, 16)
    return {"grows": 8 + change, "shrinks": 24 - change}.get(action, np.full(FRAMES, SIDE))


def _canvas_sides(action: str) -> Int[np.ndarray, "33"]:
    return np.full(FRAMES, SPIN_CANVAS) if action in TURNS else _sides(action)


def path(spec: MotionSpec) -> Float[np.ndarray, "33 2"]:
    """Centre (x, y) of the object in every frame, pixels."""
    return (np.asarray(spec.start) + _offsets(spec.action)).astype(np.float64)


def sides(spec: MotionSpec) -> Int[np.ndarray, "33"]:
    """Side of the object's (upright) square in every frame, pixels."""
    return _sides(spec.action).copy()


def angles(spec: MotionSpec) -> Float[np.ndarray, "33"]:
    """Clockwise angle in every frame, 0 to 360 degrees: a full turn in 8 steps when spinning."""
    return TURNS.get(spec.action, 0.0) * (np.arange(FRAMES) // 4) % 360


# Appearance ---------------------------------------------------------------------------------------


@functools.cache
def _handwriting(name: str) -> Float[np.ndarray, "8 8"]:
    """Image of a handwritten digit, ink from 0 to 1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the handwritten digits need scikit-learn: pip install ".[train]"') from error
    return load_digits().images[DIGIT_ROWS[name]] / 16.0


def _ink(image: Float[np.ndarray, "8 8"], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear samples of an image that fills [-1, 1] x [-1, 1], with a clean, dark stroke."""
    n = len(image)
    padded = np.pad(image, 1)
    x, y = (np.clip((c + 1) / 2 * n + 0.5, 0, n + 1 - 1e-9) for c in (u, v))
    i, j = y.astype(int), x.astype(int)
    dy, dx = y - i, x - j
    top = padded[i, j] * (1 - dx) + padded[i, j + 1] * dx
    bottom = padded[i + 1, j] * (1 - dx) + padded[i + 1, j + 1] * dx
    return np.clip(((1 - dy) * top + dy * bottom - 0.3) / 0.4, 0, 1)


def _coverage(thing: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Coverage by the object at points (u, v) of its square [-1, 1] x [-1, 1], v down; 0 outside."""
    if thing == "ball":
        return (u * u + v * v <= 1).astype(float)
    if thing == "square":
        return (np.maximum(np.abs(u), np.abs(v)) <= 0.875).astype(float)
    if thing == "triangle":
        return ((v <= 0.875) & (np.abs(u) <= (v + 1) / 1.875)).astype(float)
    if thing == "cross":
        return ((np.minimum(np.abs(u), np.abs(v)) <= 0.3) & (np.maximum(np.abs(u), np.abs(v)) <= 1)).astype(float)
    inside = np.maximum(np.abs(u), np.abs(v)) <= 1
    return _ink(_handwriting(thing), u, v) * inside


@functools.cache
def _alpha(thing: str, side: int, canvas: int, angle: float, scale: int) -> Float[np.ndarray, "canvas canvas"]:
    """Anti-aliased sprite of an object of `side` pixels, turned clockwise, on a square canvas, enlarged by `scale`."""
    points = (np.arange(canvas * scale * SUPERSAMPLING) + 0.5) / SUPERSAMPLING / scale - canvas / 2
    x, y = np.meshgrid(points, points)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    u, v = (c * x + s * y) / (side / 2), (c * y - s * x) / (side / 2)
    fine = _coverage(thing, u, v)
    pixels = canvas * scale
    return fine.reshape(pixels, SUPERSAMPLING, pixels, SUPERSAMPLING).mean((1, 3))


@functools.cache
def _sprite(thing: str, colour: str, side: int, canvas: int, angle: float, scale: int) -> np.ndarray:
    """Sprite in its colour over white, uint8 [canvas * scale, canvas * scale, 3]."""
    alpha = _alpha(thing, side, canvas, angle, scale)[..., None]
    return np.rint(255 * (1 - alpha) + np.asarray(COLOURS[colour][0]) * alpha).astype(np.uint8)


def render(spec: MotionSpec, *, scale: int = 1) -> UInt8[np.ndarray, "33 {64*scale} {64*scale} 3"]:
    """Pixels of a clip, drawn `scale` times as large."""
    frames = np.full((FRAMES, SIZE * scale, SIZE * scale, 3), 255, np.uint8)
    corners = scale * (path(spec).astype(int) - _canvas_sides(spec.action)[:, None] // 2)
    looks = zip(sides(spec).tolist(), _canvas_sides(spec.action).tolist(), angles(spec).tolist())
    for frame, (x, y), (side, canvas, angle) in zip(frames, corners.tolist(), looks):
        sprite = _sprite(spec.object, spec.colour, side, canvas, angle, scale)
        frame[y : y + len(sprite), x : x + len(sprite)] = sprite
    return frames


# Captions -----------------------------------------------------------------------------------------


def captions(spec: MotionSpec, *, rng: np.random.Generator | None = None) -> tuple[str, str]:
    """(English, Chinese) captions in the plain wording, or in a random one if `rng` is given."""
    english_name, chinese_name = OBJECTS[spec.object]
    article, english, chinese = "a", *(phrases[0] for phrases in ACTIONS[spec.action])
    if rng is not None:
        article = ("a", "the")[rng.integers(2)]
        english, chinese = (phrases[rng.integers(len(phrases))] for phrases in ACTIONS[spec.action])
    return (
        f"{article} {spec.colour} {english_name} {english}",
        f"{COLOURS[spec.colour][1]}的{chinese_name}{chinese}",
    )
