"""Clip sources by name: the project's own data set, a TFDS data set of videos, or a folder."""

from pathlib import Path

from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.data.folder import FolderSource
from cogvideo_jax.data.labelled import LABELLED, LabelledSource
from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.data.motion.dataset import CaptionedMotion, MotionConfig
from cogvideo_jax.errors import UserError

LARGEST_SIZE = 8192  # pixels


class MotionSource(ClipSource):
    """Split of the CaptionedMotion data set, drawn first if it is not on disk."""

    def __init__(self, data_dir: str | Path, *, split: str, train_clips: int, test_clips: int, scale: int = 1):
        """Opens one split.

        Args:
          split: "train" or "test".
          train_clips, test_clips: sizes of the splits, which choose the version of the data set.
          scale: 1 reads the stored frames; a larger number draws the same clips that many times as large.
        """
        super().__init__()
        config = MotionConfig.of(train_clips=train_clips, test_clips=test_clips)
        builder = CaptionedMotion(data_dir=str(data_dir), config=config)
        builder.download_and_prepare()
        self.set, self.split, self.scale = builder.info.full_name, split, scale
        self.records = builder.as_data_source(split)

    @property
    def settings(self) -> dict[str, str]:
        return {"set": self.set, "split": self.split, "scale": str(self.scale)}

    def __len__(self) -> int:
        return len(self.records)

    def name(self, row: int) -> str:
        return f"{self.split}/{row}"

    def __getitem__(self, row: int) -> Clip:
        record = self.records[row]
        texts = (record["english"].decode(), record["chinese"].decode())
        frames = record["frames"] if self.scale == 1 else motion.render(drawn_spec(record), scale=self.scale)
        return Clip(frames, float(record["fps"]), texts, self.name(row))


def drawn_spec(record: dict) -> motion.MotionSpec:
    """Specification of the clip in a record of CaptionedMotion; its `start` is the object's first centre."""
    words = (record[key].decode() for key in ("object", "colour", "action"))
    return motion.MotionSpec(*words, start=tuple(int(place) for place in record["path"][0]))


def open_source(name: str, *, size: int, data_dir: str | Path, train_clips: int, test_clips: int = 1_000) -> ClipSource:
    """Opens the training clips of a data set, or the clips of a folder.

    Args:
      name: "captioned_motion", a key of `labelled.LABELLED`, or a folder with captions.
      size: side of the frames, pixels.
      data_dir: folder of data sets.
      train_clips, test_clips: sizes of the drawn data set.
    """
    if not 1 <= size <= LARGEST_SIZE:
        raise UserError(f"frames have sides of 1 to {LARGEST_SIZE} pixels, not {size}")
    if name in LABELLED:
        return LabelledSource(name, data_dir, split="train", size=size)
    if name != "captioned_motion":
        return FolderSource(name, size=size)
    if size % motion.SIZE:
        raise UserError(f"captioned_motion has frames of {motion.SIZE} pixels or a multiple of that, not {size}")
    clips = dict(train_clips=train_clips, test_clips=test_clips)
    return MotionSource(data_dir, split="train", scale=size // motion.SIZE, **clips)
