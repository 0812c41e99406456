"""TFDS data sets of labelled videos, with the label as the text, as in the paper's tables.

TFDS decodes these videos with TensorFlow, which nothing else here needs: the extra `[tfds]`.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.media import fit_square

# name -> TFDS data set, and its frames/s
LABELLED = {"ucf101": ("ucf101/ucf101_1_256", 25.0)}


class LabelledSource(ClipSource):
    """Split of a data set, downloaded first if it is not on disk."""

    def __init__(self, name: str, data_dir: str | Path, *, split: str, size: int):
        """Opens a data set.

        Args:
          name: a key of LABELLED.
          data_dir: folder of data sets.
          split: "train" or "test".
          size: side of the frames; the shorter side is resized to it and the middle square cropped.

        Raises:
          UserError: TensorFlow is not installed.
        """
        super().__init__()
        needed = [module for module in ("tensorflow", "cv2") if importlib.util.find_spec(module) is None]
        if needed:
            raise UserError(f'{name} is decoded by {needed[0]}, which is not installed: pip install ".[tfds]"')
        builder = tfds.builder(LABELLED[name][0], data_dir=str(data_dir))
        builder.download_and_prepare()
        self.set, self.split, self.size, self.fps = name, split, size, LABELLED[name][1]
        self.version = builder.info.full_name
        self.labels = builder.info.features["label"].names
        self.records = builder.as_data_source(split)

    @property
    def settings(self) -> dict[str, str]:
        return {"set": self.version, "split": self.split, "size": str(self.size)}

    def captions(self) -> list[str]:
        return [words_of(label) for label in self.labels]

    def __len__(self) -> int:
        return len(self.records)

    def name(self, row: int) -> str:
        return f"{self.set}/{self.split}/{row}"

    def __getitem__(self, row: int) -> Clip:
        record = self.records[row]
        frames = np.stack([np.asarray(fit_square(Image.fromarray(frame), self.size)) for frame in record["video"]])
        return Clip(frames, self.fps, (words_of(self.labels[record["label"]]),), self.name(row))


def words_of(label: str) -> str:
    """Words of a label: "ApplyEyeMakeup" -> "apply eye makeup"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).replace("_", " ").lower()
