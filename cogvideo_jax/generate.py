"""Prompts -> files: what `cogvideo generate` does around `TextToVideo`."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from cogvideo_jax.notation import UInt8
from cogvideo_jax.runtime import video_io
from cogvideo_jax.text_to_video import TextToVideo

WRITERS = {".mp4": video_io.write_mp4, ".gif": video_io.write_gif}
SHEET = ".png"
LONGEST_NAME = 60


class Job(NamedTuple):
    """One video to make."""

    prompt: str
    copy: int  # which of --num
    path: Path  # with the first format's suffix


def safe_name(prompt: str) -> str:
    """A prompt as a file name: letters and digits of any language, the rest underscores; never a path."""
    name = re.sub(r"[^\w]+", "_", prompt.strip().lower()).strip("_")
    return name[:LONGEST_NAME].rstrip("_") or "video"


def read_prompts(path: str | Path) -> list[str]:
    """One prompt a line; empty lines are left out.

    Raises:
      ValueError: the file cannot be read, is not text, or has no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts file {path} cannot be read as text") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"prompts file {path} has no line with a prompt")
    return prompts


def plan_jobs(prompts: Sequence[str], *, num: int, out: str | Path, formats: Sequence[str]) -> list[Job]:
    """Where every video goes; creates the folder and makes sure that it can be written.

    `out` is a file name for a single video, otherwise a folder.

    Raises:
      ValueError: num is not positive, a file name for several videos, or a folder that cannot be written.
    """
    if num < 1:
        raise ValueError(f"--num must be at least 1, got {num}")
    out, several = Path(out), len(prompts) * num > 1
    names_file = out.suffix.lower() in (*WRITERS, SHEET)
    if names_file and several:
        raise ValueError(f"{out} is one file, but {len(prompts) * num} videos are asked for; give a folder")
    folder = out.parent if names_file else out
    _make_writable(folder)
    if names_file:
        return [Job(prompts[0], 0, out)]
    jobs = []
    for i, prompt in enumerate(prompts):
        name = safe_name(prompt) if len(prompts) == 1 else f"{i + 1:04d}_{safe_name(prompt)}"
        for copy in range(num):
            label = name if num == 1 else f"{name}_{copy + 1}"
            jobs.append(Job(prompt, copy, folder / f"{label}{formats[0]}"))
    return jobs


def run_jobs(
    video: TextToVideo, jobs: Sequence[Job], *, seed: int, batch: int, formats: Sequence[str], **options
) -> tuple[list[Path], list[str]]:
    """Makes all videos, `batch` at a time, and writes each batch as soon as it is done.

    A prompt that the weights cannot take is left out and named.

    Args:
      options: keyword arguments of `TextToVideo.__call__`.

    Returns:
      Paths written, and one sentence for every prompt left out.
    """
    good, complaints = _usable(video, jobs)
    written = []
    fps = video.rate(options.get("fps"), options.get("seconds"))
    for start in range(0, len(good), batch):
        part = good[start : start + batch]
        filled = [part[i % len(part)] for i in range(min(batch, len(good)))]  # one shape: compiled once
        keys = jnp.stack([_job_key(seed, job) for job in filled])
        frames = video([job.prompt for job in filled], keys, progress=True, **options)
        for job, clip in zip(part, frames):
            written += write_clip(job.path, clip, fps=fps, formats=formats)
            logging.info("wrote %s", job.path)
    return written, complaints


def write_clip(path: Path, clip: UInt8[np.ndarray, "T H W 3"], *, fps: float, formats: Sequence[str]) -> list[Path]:
    """Writes one video in every format, beside each other."""
    paths = []
    for suffix in dict.fromkeys([path.suffix.lower(), *formats[1:]]):
        target = path.with_suffix(suffix)
        if suffix == SHEET:
            video_io.write_contact_sheet(target, [clip])
        else:
            WRITERS[suffix](target, clip, fps=fps)
        paths.append(target)
    return paths


def _usable(video: TextToVideo, jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    good, complaints = [], {}
    for job in jobs:
        try:
            video.check(job.prompt)
            good.append(job)
            if job.copy == 0 and (unknown := video.unknown_words(job.prompt)):
                logging.warning("these weights have never seen %s; expect nonsense", ", ".join(unknown))
        except ValueError as error:
            complaints[job.prompt] = str(error)
    return good, list(complaints.values())


def _job_key(seed: int, job: Job) -> jax.Array:
    """The same prompt, copy and seed give the same video, whatever else is made beside it."""
    return jax.random.fold_in(jax.random.key(seed), job.copy)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be written: {error.strerror or error}") from error
