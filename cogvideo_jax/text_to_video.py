"""The door: opened weights that can be called with a prompt.

pipe = cogvideo_jax.load()                          # the demo's weights, a folder, or a name on the hub
video = pipe("a red ball bounces to the right")     # Video: frames uint8 [33, 192, 192, 3], fps 8
video.save("ball.mp4")
"""

import base64
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cogvideo_jax import chain
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Clips, Features, Opening, Request, Sampler, Step, make_request
from cogvideo_jax.models import registry
from cogvideo_jax.notation import UInt8
from cogvideo_jax.runtime import media
from cogvideo_jax.runtime.schemas import make

__all__ = ["Request", "Step", "TextToVideo", "Video", "load"]

KEY_FRAMES = ".keyframes"  # key frames as a family keeps them, for `cogvideo interpolate`


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """A generated video.

    Attributes:
      frames: uint8 pixels.
      fps: frames a second.
      prompt: what it shows.
      features: of key frames alone, what `cogvideo interpolate` goes on from; else None.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float
    prompt: str = ""
    features: Features | None = dataclasses.field(default=None, repr=False)

    def save(self, path: str | Path, *, replace: bool = True) -> Path:
        """Writes .mp4, .gif, .png (all frames in a grid), or .keyframes where there are features.

        Args:
          replace: take the place of a file of this name.
        Raises:
          UserError: another suffix, or a file that cannot be written.
        """
        path = Path(path)
        writer = WRITERS.get(path.suffix.lower())
        if writer is None:
            raise UserError(f"{path.name} should end in {', '.join(WRITERS)}")
        writer(path, self, replace)
        return path

    def _repr_html_(self) -> str:
        """The clip itself, for notebooks."""
        with tempfile.TemporaryDirectory() as folder:
            data = base64.b64encode(self.save(Path(folder) / "clip.mp4").read_bytes()).decode()
        return f'<video autoplay loop muted controls src="data:video/mp4;base64,{data}"></video>'


def _save_features(path: Path, video: Video, replace: bool) -> None:
    if video.features is None:
        raise UserError(f"{path.name}: only key frames can be saved so; ask for output=key_frames")
    video.features.save(path, prompt=video.prompt, replace=replace)


WRITERS: dict[str, Callable[[Path, Video, bool], None]] = {
    ".mp4": lambda path, video, replace: media.write_mp4(path, video.frames, fps=video.fps, replace=replace),
    ".gif": lambda path, video, replace: media.write_gif(path, video.frames, fps=video.fps, replace=replace),
    ".png": lambda path, video, replace: media.write_contact_sheet(path, [video.frames], replace=replace),
    KEY_FRAMES: _save_features,
}


class TextToVideo:
    """Weights of any family. `load` makes one; call it with prompts."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    @classmethod
    def load(cls, folder: str | Path | None = None, **how: Any) -> "TextToVideo":
        """The older name of `cogvideo_jax.load`."""
        return load(folder, **how)

    def __call__(
        self, prompt: str | Sequence[str], *, seed: int = 0, progress: bool = False, **fields: Any
    ) -> "Video | list[Video]":
        """A video of a prompt, or a list of videos of several prompts.

        Args:
          seed: the same seed gives the same video.
          progress: show a bar on a terminal.
          fields: any other field of `Request`.

        Raises:
          UserError: in one sentence, for what these weights cannot make.
        """
        request = self.request(prompt, seed=seed, **fields)
        for warning in self.check(request):
            logging.warning(warning)
        clips = self.run(request, progress=progress)
        videos = self.videos(request, clips)
        return videos[0] if isinstance(prompt, str) else videos

    def videos(self, request: Request, clips: Clips) -> list[Video]:
        """Frames of a request as videos."""
        features: Sequence[Features | None] = clips.features or [None] * len(clips.frames)
        each = zip(clips.frames, request.prompts, features)
        return [Video(frames, clips.fps, prompt, own) for frames, prompt, own in each]

    def request(self, prompt: str | Sequence[str], *, seed: int = 0, **fields: Any) -> Request:
        """What a call with these arguments asks for. Raises UserError for values that no family takes."""
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        return make_request(prompts=prompts, seeds=(seed,) * len(prompts), **fields)

    def check(self, request: Request) -> list[str]:
        """Warnings about a request. Raises UserError for one that these weights cannot make."""
        self.sampler.check_fields(request)
        return self.sampler.check_prompts(request)

    def steps(self, request: Request) -> list[Step]:
        """The chain of a request, nothing of which has run."""
        self.check(request)
        return self.sampler.steps(request)

    def plan(self, request: Request) -> chain.Planned:
        """The chain with its memory; compiles its programs and loads no transformer."""
        self.check(request)
        return chain.plan(self.sampler, request)

    def run(self, request: Request, *, steps: Sequence[Step] | None = None, progress: bool = False) -> Clips:
        """Frames of a request.

        Args:
          steps: its chain, where it was planned before.
        """
        return chain.run(self.steps(request) if steps is None else steps, progress=progress)


def load(folder: str | Path | None = None, **how: Any) -> TextToVideo:
    """Opens a folder of weights, by default those of the demo.

    Args:
      folder: its path, or the name of a snapshot on the hub, such as "THUDM/CogVideoX-2b".
      how: `dtype`, `one_stage_at_a_time`, `int8`, `growing_cache`; see `interface.Opening`.

    Raises:
      UserError: one sentence, if something is missing, damaged or does not fit.
    """
    if "int8" in how:
        how["int8"] = tuple(how["int8"])
    opening = make(Opening, where="opening weights", **how)
    found = registry.folder_of(folder)
    return TextToVideo(registry.family_of(found).open(found, opening))
