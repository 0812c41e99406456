"""Videos of many containers, codecs and pixel formats read as FFmpeg's own filters show them."""

import av
import numpy as np
import pytest

from cogvideo_jax.runtime.media import read_video
from tests.runtime.media_files import quarters, write

FRAMES = 5
KINDS = """
a.mp4 libx264 yuv420p | a.mp4 libx264 yuv422p | a.mp4 libx264 yuv444p | a.mp4 libx264 yuvj420p | a.mkv libx264 gray
a.mp4 libx264 yuv420p10le | a.mp4 libx264 yuv444p10le | a.mkv libx264rgb rgb24 | a.flv libx264 yuv420p
a.ts libx264 yuv420p | a.h264 libx264 yuv420p | a.avi libx264 yuv420p | a.mov libx264 yuv422p10le
a.3gp libx264 yuv420p | a.mp4 libx265 yuv420p | a.mp4 libx265 yuv420p10le | a.mp4 libx265 yuv444p12le
a.hevc libx265 yuv420p | a.webm libvpx yuv420p | a.webm libvpx-vp9 yuv420p | a.webm libvpx-vp9 yuv444p
a.webm libvpx-vp9 gbrp | a.ivf libvpx-vp9 yuv420p | a.mp4 libsvtav1 yuv420p | a.webm libsvtav1 yuv420p10le
a.mp4 mpeg4 yuv420p | a.avi mpeg4 yuv420p | a.m4v mpeg4 yuv420p | a.avi msmpeg4 yuv420p | a.avi msmpeg4v2 yuv420p
a.mpg mpeg1video yuv420p | a.mpg mpeg2video yuv420p | a.ts mpeg2video yuv422p | a.mxf mpeg2video yuv420p
a.avi mjpeg yuvj420p | a.mov mjpeg yuvj422p | a.mjpeg mjpeg yuvj444p | a.flv flv yuv420p | a.avi rawvideo bgr24
a.wmv wmv1 yuv420p | a.asf wmv2 yuv420p | a.rm rv10 yuv420p | a.rm rv20 yuv420p | a.mkv ffv1 yuv420p
a.mkv ffv1 yuv420p16le | a.mkv ffv1 yuv444p12le | a.mkv ffv1 bgr0 | a.mkv ffv1 gbrp16le | a.mkv ffv1 gray16le
a.mkv ffv1 yuv411p | a.mov prores_ks yuv422p10le | a.mov prores_ks yuv444p10le | a.mov qtrle rgb24 | a.mov png rgb24
a.mov png rgb48be | a.mov v210 yuv422p10le | a.mov rawvideo yuyv422 | a.mov cinepak rgb24 | a.avi utvideo gbrp
a.avi huffyuv yuv422p | a.avi ffvhuff yuv420p | a.avi magicyuv yuv444p | a.nut snow yuv420p | a.y4m rawvideo yuv420p
a.nut rawvideo p010le | a.nut rawvideo nv12
"""
CONTAINERS = {"mjpeg": "mjpeg", "y4m": "yuv4mpegpipe"}


def shown_by_ffmpeg(path):
    """Frames in the order of decoding, converted by FFmpeg's filters."""
    pictures = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            graph = av.filter.Graph()
            source = graph.add_buffer(template=frame, time_base=container.streams.video[0].time_base)
            scale = graph.add("scale", "flags=bicubic+accurate_rnd+full_chroma_int")
            graph.link_nodes(source, scale, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
            graph.push(frame)
            pictures.append(graph.pull().to_ndarray())
    return np.stack(pictures)


def moving():
    """The quarters, brighter from frame to frame."""
    return np.stack([(quarters() * (0.4 + 0.15 * frame)).astype(np.uint8) for frame in range(FRAMES)])


@pytest.mark.parametrize(
    "kind", [kind.strip() for line in KINDS.split("\n") for kind in line.split("|") if kind.strip()]
)
def test_a_video_is_read_as_ffmpeg_shows_it(tmp_path, kind):
    name, codec, pixels = kind.split()
    container, codec = CONTAINERS.get(name.split(".")[1]), "wrapped_avframe" if name.endswith("y4m") else codec
    rate = 25 if codec.startswith("mpeg") or name.endswith(("mjpeg", "rm")) else 10
    write(tmp_path / name, moving(), codec, pixels, rate=rate, container=container)
    ours, theirs = read_video(tmp_path / name, fps=rate, max_seconds=9), shown_by_ffmpeg(tmp_path / name)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.astype(int), theirs, atol=2)
