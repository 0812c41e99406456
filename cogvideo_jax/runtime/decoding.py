"""Moving pictures of a file and their moments: Pillow decodes gif, webp, png and avif, PyAV every other kind.

The first bytes choose the reader, not the name. FFmpeg gets an open file and a list of containers, so that no file can
make it read another one or ask the network.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import reason
from cogvideo_jax.runtime.pictures import HDR, Look, Pixels, require_sane_size, show

Draw = Callable[..., Pixels]  # takes `size`, as `show` does
Shown = tuple[float, float, Draw]  # start and end of display in seconds, and the picture

MOVING = ("GIF", "WEBP", "PNG", "AVIF")
STILL = (*MOVING, "JPEG", "BMP", "TIFF", "PPM", "JPEG2000")
ORIENTATION = 0x0112  # tag of EXIF
SHORTEST = 0.02  # seconds; browsers and FFmpeg show a shorter picture of a gif, or one without a duration, for
DEFAULT_DURATION = 0.1
CONTAINERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,vvc,vc1,flv,ogg,asf,nut,mxf,dv,rm,wtv,"
    "yuv4mpegpipe,mjpeg"
)
HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
READ_BUFFER = 1 << 18  # bytes
TURNS = {  # signs of a display matrix's a, b, c, d -> orientation of EXIF
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def moving_pictures(file: BinaryIO) -> Iterator[Shown]:
    """Pictures of an open file in the order in which they are shown."""
    try:
        image = Image.open(file, formats=MOVING)
    except Image.UnidentifiedImageError:
        file.seek(0)
        return _by_av(file)
    return _by_pillow(image, file)


def still_picture(file: BinaryIO, *, size: int | None) -> Pixels:
    """Pixels of an open file's first picture."""
    try:
        image = Image.open(file, formats=STILL)
    except Image.UnidentifiedImageError as error:
        raise UserError(f"it is damaged, or no picture of a known kind ({', '.join(STILL).lower()})") from error
    with image:
        require_sane_size(*image.size)
        return show(image, _look_of_image(image, file), size=size)


# Pillow -------------------------------------------------------------------------------------------


def _by_pillow(image: Image.Image, file: BinaryIO) -> Iterator[Shown]:
    """Pictures with the durations in the file."""
    with image:
        require_sane_size(*image.size)
        look, start = _look_of_image(image, file), 0.0
        count = getattr(image, "n_frames", 1)
        for index in range(1 if getattr(image, "default_image", False) and count > 1 else 0, count):
            image.seek(index)
            picture = image.copy()  # Pillow knows a duration when it has decoded the picture
            until = start + _duration(image)
            yield start, until, partial(show, picture, look)
            start = until


def _duration(image: Image.Image) -> float:
    seconds = image.info.get("duration", 0) / 1000
    shortest = 1e-3 if image.format == "AVIF" else SHORTEST
    return seconds if seconds >= shortest else DEFAULT_DURATION


def _look_of_image(image: Image.Image, file: BinaryIO) -> Look:
    image.load()  # the tags may follow the pixels, and Pillow turns a tiff upright itself
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow parses what a camera wrote; damage there does not damage the pixels
        orientation = 1
    look = Look(orientation=orientation if isinstance(orientation, int) else 1)
    return look._replace(**_colours_of_avif(file)) if image.format == "AVIF" else look


def _colours_of_avif(file: BinaryIO) -> dict[str, int]:
    """Pillow does not tell the transfer characteristics."""
    place = file.tell()
    try:
        file.seek(0)
        with _container(file) as container:
            context = container.streams.video[0].codec_context
            return {"transfer": int(context.color_trc), "primaries": int(context.color_primaries)}
    except (UserError, ValueError, OSError, IndexError):
        return {}
    finally:
        file.seek(place)


# PyAV ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _container(file: BinaryIO):
    import av  # lazily: PyAV is needed for videos only

    head = file.read(32)
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF:
        raise UserError("it is a HEIF picture; save it as JPEG, PNG or MP4")
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    try:
        found = av.open(file, options=options, buffer_size=READ_BUFFER, io_open=_refuse, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise UserError("it is damaged, or no video of a known kind") from error
    try:
        with found:
            found.flags &= ~av.container.Flags.gen_pts.value  # it makes up presentation times that are wrong
            yield found
    except av.error.FFmpegError as error:
        raise UserError(f"it is damaged: {reason(error)}") from error


def _refuse(url: str, flags: int, options: dict) -> None:
    raise UserError("it refers to other files, which are not read")


def _by_av(file: BinaryIO) -> Iterator[Shown]:
    """Pictures of a video; each is shown until the next."""
    with _container(file) as container:
        stream = _video_stream(container)
        require_sane_size(stream.codec_context.width or 1, stream.codec_context.height or 1)
        first = last = None
        for start, frame in _with_starts(container, stream):
            require_sane_size(frame.width, frame.height)
            first = start if first is None else first
            if last is not None:
                yield last[0] - first, start - first, partial(_draw, *last[1:])
            last = start, frame, stream.sample_aspect_ratio
        if last is not None:
            yield last[0] - first, _end(container, stream, *last[:2]) - first, partial(_draw, *last[1:])


def _video_stream(container):
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise UserError("it has no video stream")
    if streams[0].codec_context is None:
        raise UserError("no decoder is known for its video stream")
    return streams[0]


def _with_starts(container, stream) -> Iterator[tuple[float, Any]]:
    """Frames and their moments in seconds.

    Presentation times where the file has them; else the moments at which it has a frame decoded, which come in the
    order of display; else one frame after another. Time does not run backwards.
    """
    import av

    decoder, moments = _decoder(stream), deque()
    presented = start = following = None
    for packet in container.demux(stream):
        if packet.size:
            moments.append(packet.dts)
        try:
            frames = decoder.decode(packet)
        except av.error.InvalidDataError:
            if start is not None or not moments:
                raise
            moments.pop()  # a recording may begin between key frames
            continue
        for frame in frames:
            presented = frame.pts is not None if presented is None else presented
            moment = moments.popleft() if moments else None
            ticks = frame.pts if presented else moment
            time = following or 0.0 if ticks is None else float(ticks * stream.time_base)
            start = time if start is None or time >= start else following
            yield start, frame
            following = start + _length(stream, frame)


def _decoder(stream):
    """FFmpeg's own decoders of VP8 and VP9 drop the transparency that WebM keeps beside the pictures."""
    import av

    library = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    metadata = {key.lower(): value for key, value in stream.metadata.items()}
    if library is None or metadata.get("alpha_mode") != "1":
        return stream
    return av.CodecContext.create(library, "r")


def _length(stream, frame) -> float:
    """Seconds of one frame."""
    if frame.duration:
        return float(frame.duration * stream.time_base)
    rate = stream.guessed_rate or stream.average_rate
    return float(1 / rate) if rate else DEFAULT_DURATION


def _end(container, stream, start: float, frame) -> float:
    """End of the last frame: that of the stream, if the container says so."""
    if stream.duration:
        end = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    elif container.duration and not container.start_time and len(container.streams) == 1:
        end = container.duration / 1e6
    else:
        end = -math.inf
    return end if end > start else start + _length(stream, frame)


def _draw(frame, aspect: Fraction | None, *, size: int | None) -> Pixels:
    """Pixels of a frame on the screen."""
    transparent = frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)
    rgb = _converted(frame, "rgba" if transparent else "rgb24")
    return show(Image.fromarray(rgb.to_ndarray()), _look_of_frame(frame, aspect), size=size)


def _converted(frame, pixel_format: str):
    """FFmpeg's filter knows a frame's matrix, range and place of chroma."""
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(template=frame, time_base=Fraction(1, 1))
    scale = graph.add("scale", "flags=bicubic+accurate_rnd+full_chroma_int")
    graph.link_nodes(source, scale, graph.add("format", pixel_format), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def _look_of_frame(frame, aspect: Fraction | None) -> Look:
    transfer = int(frame.color_trc)
    return Look(
        orientation=_orientation(frame),
        aspect=aspect if aspect and aspect > 0 else Fraction(1),
        transfer=transfer if transfer in HDR else Look().transfer,
        primaries=int(frame.color_primaries),
    )


def _orientation(frame) -> int:
    """Orientation of EXIF nearest to the frame's display matrix."""
    from av.sidedata.sidedata import Type

    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV does not know another kind of side data; all that is left is the rotation
        return {0: 1, 1: 8, 2: 3, 3: 6}[round(frame.rotation / 90) % 4]
    if matrix is None:
        return 1
    a, b, _, c, d = (int(entry) for entry in np.frombuffer(matrix, np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        b = c = 0
    else:
        a = d = 0
    return TURNS.get(tuple((entry > 0) - (entry < 0) for entry in (a, b, c, d)), 1)
