"""Pictures as a player shows them: upright, with square pixels, over white, in standard dynamic range, as 8-bit RGB."""

import functools
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import UInt8

Pixels = UInt8[np.ndarray, "H W 3"]

LONGEST_SIDE = 1 << 15  # pixels
MOST_PIXELS = 1 << 26  # of a frame; 8K video has half as many
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of H.273
UNSPECIFIED, BT2020 = 2, 9  # primaries of H.273
TABLE_SIDE = 33  # colours a channel of the tone-mapping table
UPRIGHT = {  # orientation of EXIF -> what makes a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Look(NamedTuple):
    """A file's instructions for showing its pixels."""

    orientation: int = 1  # as in EXIF
    aspect: Fraction = Fraction(1)  # width of a stored pixel over its height
    transfer: int = UNSPECIFIED  # transfer characteristics and primaries of H.273
    primaries: int = UNSPECIFIED


def show(picture: Image.Image, look: Look, *, size: int | None = None) -> Pixels:
    """Pixels on the screen; `size` is the side of the square result (see `fit_square`), None keeps all."""
    picture = _over_white(_in_8_bits(picture))
    if size is not None:
        picture = fit_square(picture, size, aspect=look.aspect)
    elif look.aspect != 1:
        picture = _with_square_pixels(picture, look.aspect)
    if look.transfer in HDR:
        picture = picture.filter(_tone_mapping(look.transfer, look.primaries))
    if look.orientation in UPRIGHT:
        picture = picture.transpose(UPRIGHT[look.orientation])
    return np.asarray(picture)


def fit_square(image: Image.Image, size: int, *, aspect: Fraction = Fraction(1)) -> Image.Image:
    """Crops the middle square and resizes it to `size`; `aspect` is the width of a pixel over its height."""
    side = min(image.width * aspect, image.height)  # of the square, in heights of a pixel
    left, top = (image.width - side / aspect) / 2, (image.height - side) / 2
    box = tuple(float(edge) for edge in (left, top, image.width - left, image.height - top))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def resized(pixels: Pixels, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture at (height, width), by Lanczos; its aspect is not kept."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))


def _with_square_pixels(picture: Image.Image, aspect: Fraction) -> Image.Image:
    width = max(1, round(picture.width * aspect))
    require_sane_size(width, picture.height)
    return picture.resize((width, picture.height), Image.Resampling.BICUBIC)


def require_sane_size(width: int, height: int) -> None:
    """Raises UserError for pictures without pixels or with more than a camera makes."""
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE and width * height <= MOST_PIXELS):
        limits = f"at most {LONGEST_SIDE} a side and {MOST_PIXELS:,} in all are read"
        raise UserError(f"its pictures have {width} x {height} pixels; {limits}")


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts off 16-bit grey at 255; here it is scaled."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    if picture.mode == "F":
        raise UserError("its pixels are floating-point numbers; save it with 8 or 16 bits a channel")
    grey = np.asarray(picture).astype(np.int64)
    return Image.fromarray((grey.clip(0, 65535) / 257).round().astype(np.uint8))


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


@functools.cache
def _tone_mapping(transfer: int, primaries: int) -> ImageFilter.Color3DLUT:
    """FFmpeg's table from HDR colours to those of BT.709; it takes seconds to make."""
    import av  # lazily: PyAV is needed for videos only

    levels = np.linspace(0, 65535, TABLE_SIDE).round().astype(np.uint16)
    blue, green, red = np.meshgrid(levels, levels, levels, indexing="ij")  # red changes fastest, as Pillow has it
    colours = np.stack([red, green, blue], -1).reshape(TABLE_SIDE, -1, 3)
    frame = av.VideoFrame.from_ndarray(colours, format="rgb48le")
    frame.color_trc, frame.color_primaries = transfer, BT2020 if primaries == UNSPECIFIED else primaries
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    graph = av.filter.Graph()
    source = graph.add_buffer(template=frame, time_base=frame.time_base)
    scale = graph.add("scale", "out_transfer=bt709:out_primaries=bt709:intent=perceptual")
    graph.link_nodes(source, scale, graph.add("format", "rgb48le"), graph.add("buffersink")).configure()
    graph.push(frame)
    shown = graph.pull().to_ndarray(format="rgb48le")
    return ImageFilter.Color3DLUT(TABLE_SIDE, (shown / np.float32(65535)).reshape(-1, 3))
