"""Pictures and videos read as a player shows them."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime import pictures
from cogvideo_jax.runtime.media import fit_square, read_image, read_video
from tests.runtime.media_files import colours, quarters, write

PICTURE = quarters()
TURNED = {  # orientation of EXIF -> the picture upright
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PICTURE),
}


def first(path, **kwargs):
    return read_video(path, fps=10, max_seconds=0, **kwargs)[0]


def same_picture(shown, expected):
    return shown.shape == expected.shape and colours(shown) == colours(expected)


# Orientation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_a_display_matrix_turns_and_mirrors_a_video(tmp_path, name, degrees, mirrored):
    def turn(stream):
        stream.set_display_rotation(degrees, hflip=mirrored)

    write(tmp_path / name, PICTURE[None], set_up=turn)
    expected = np.rot90(PICTURE, degrees // 90)
    assert same_picture(first(tmp_path / name), expected[:, ::-1] if mirrored else expected)


def test_a_slanted_display_matrix_counts_as_the_nearest_right_angle(tmp_path):
    write(tmp_path / "a.mp4", PICTURE[None], set_up=lambda stream: stream.set_display_rotation(80))
    assert same_picture(first(tmp_path / "a.mp4"), np.rot90(PICTURE))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_an_orientation_of_exif_turns_a_picture(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    kept = {"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": exif}
    Image.fromarray(PICTURE).save(tmp_path / f"a.{suffix}", **kept)
    assert same_picture(read_image(tmp_path / f"a.{suffix}"), TURNED[orientation])


def test_a_damaged_exif_changes_nothing(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")
    assert same_picture(read_image(tmp_path / "a.jpg"), PICTURE)


# Shape of pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect, width", [((2, 1), 128), ((1, 2), 32), ((16, 11), 93)])
@pytest.mark.parametrize("name, codec", [("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_pixels_become_square(tmp_path, name, codec, aspect, width):
    def stretch(stream):
        stream.sample_aspect_ratio = Fraction(*aspect)

    write(tmp_path / name, PICTURE[None], codec, set_up=stretch)
    assert same_picture(first(tmp_path / name), quarters(48, width))
    assert same_picture(first(tmp_path / name, size=32), quarters(32, 32))


def test_pixels_are_stretched_before_the_picture_is_turned(tmp_path):
    def change(stream):
        stream.sample_aspect_ratio = Fraction(2)
        stream.set_display_rotation(90)

    write(tmp_path / "a.mp4", PICTURE[None], set_up=change)
    assert same_picture(first(tmp_path / "a.mp4"), np.rot90(quarters(48, 128)))


@pytest.mark.parametrize("aspect, kept", [(1, (12, 36)), (Fraction(1, 2), (0, 48)), (2, (18, 30))])
def test_the_middle_square_is_kept(aspect, kept):
    picture = np.zeros((24, 48, 3), np.uint8)
    picture[:, slice(*kept)] = 255
    square = np.asarray(fit_square(Image.fromarray(picture), 8, aspect=Fraction(aspect)))
    assert (square[:, 1:-1] == 255).all() and (square > 160).all()  # the edges mix with their neighbours


# Transparency -------------------------------------------------------------------------------------


def half_transparent():
    """Red on the left; on the right black that is not seen."""
    frame = np.zeros((48, 64, 4), np.uint8)
    frame[:, :32] = (255, 0, 0, 255)
    return frame


@pytest.mark.parametrize(
    "name, codec, pixels",
    [
        ("a.webm", "libvpx", "yuva420p"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.avi", "utvideo", "gbrap"),
    ],
)
def test_transparent_pixels_of_a_video_are_white(tmp_path, name, codec, pixels):
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    write(tmp_path / name, half_transparent()[None].repeat(3, 0), codec, pixels, options=options)
    frames = read_video(tmp_path / name, fps=10, max_seconds=9)
    assert len(frames) == 3 and {colours(frame) for frame in frames} == {"rwrw"}


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif", "tif"])
def test_transparent_pixels_of_a_picture_are_white(tmp_path, suffix):
    Image.fromarray(half_transparent()).save(tmp_path / f"a.{suffix}")
    assert colours(read_image(tmp_path / f"a.{suffix}")) == "rwrw"


# Depth, range and matrix --------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 9])  # BT.709, 601 and 2020
@pytest.mark.parametrize("pixels", ["yuv444p", "yuv444p10le"])
def test_colours_survive_every_matrix_and_range(tmp_path, pixels, matrix, full):
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    write(tmp_path / "a.mp4", PICTURE[None], "libx264", pixels, tags=tags, options={"crf": "1"})
    np.testing.assert_allclose(first(tmp_path / "a.mp4").astype(int), PICTURE, atol=4)


@pytest.mark.parametrize("codec, pixels", [("ffv1", "yuv444p12le"), ("ffv1", "gbrp16le"), ("png", "rgb48be")])
def test_deep_colours_are_scaled_to_8_bits(tmp_path, codec, pixels):
    write(tmp_path / "a.nut", PICTURE[None], codec, pixels)
    np.testing.assert_allclose(first(tmp_path / "a.nut").astype(int), PICTURE, atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path, suffix):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey * 257).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}")[..., 0], grey)


def test_a_picture_of_floating_point_numbers_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="its pixels are floating-point numbers"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode, suffix", [("CMYK", "jpg"), ("P", "png"), ("1", "png"), ("YCbCr", "jpg")])
def test_every_mode_of_pillow_is_read(tmp_path, mode, suffix):
    Image.fromarray(PICTURE).convert(mode).save(tmp_path / f"a.{suffix}")
    assert mode == "1" or same_picture(read_image(tmp_path / f"a.{suffix}"), PICTURE)
    assert read_image(tmp_path / f"a.{suffix}").shape == (48, 64, 3)


# High dynamic range -------------------------------------------------------------------------------


def grey_hdr(path, transfer, luma):
    """A flat picture of 10-bit limited luma."""

    def fill(frame):
        for plane, value in zip(frame.planes, (luma, 512, 512)):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())

    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx265", rate=10, options={"x265-params": "log-level=none:pools=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        fill(frame)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
            setattr(frame, name, value)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@pytest.mark.slow
@pytest.mark.parametrize("transfer, luma, level", [(16, 593, 163), (16, 400, 80), (18, 593, 136), (18, 769, 189)])
def test_hdr_is_tone_mapped(tmp_path, transfer, luma, level):
    """The levels are those of FFmpeg's `scale=out_transfer=bt709:out_primaries=bt709:intent=perceptual`."""
    grey_hdr(tmp_path / "a.mp4", transfer, luma)
    np.testing.assert_allclose(first(tmp_path / "a.mp4").astype(int), level, atol=3)


def test_hdr_goes_through_the_table_of_its_transfer(tmp_path, monkeypatch):
    asked = []
    table = pictures.ImageFilter.Color3DLUT.generate(2, lambda r, g, b: (g, b, r))
    monkeypatch.setattr(pictures, "_tone_mapping", lambda *args: asked.append(args) or table)
    grey_hdr(tmp_path / "a.mp4", 16, 593)
    first(tmp_path / "a.mp4")
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png")
    assert asked == [(16, 9)]
