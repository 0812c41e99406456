"""Prompts -> files: what `cogvideo generate` and `cogvideo interpolate` do around `TextToVideo`."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo
from cogvideo_jax.notation import Array, Int, Key, UInt8
from cogvideo_jax.runtime import media as video_io
from cogvideo_jax.runtime.jsonl import read_lines
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.weights import load_weights, save_weights

WRITERS = {".mp4": video_io.write_mp4, ".gif": video_io.write_gif}
SHEET = ".png"
KEY_FRAMES = ".keyframes"  # what stage 1 wrote, for stage 2 to go on from
RECORD = "videos.jsonl"  # of a folder made from a file of prompts: what each video is of
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
      UserError: the file cannot be read, is not text, or has no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts file {path} cannot be read as text") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts file {path} has no line with a prompt")
    return prompts


def plan_jobs(prompts: Sequence[str], *, num: int, out: str | Path, formats: Sequence[str]) -> list[Job]:
    """Where every video goes; creates the folder and makes sure that it can be written.

    `out` is a file name for a single video, otherwise a folder.

    Raises:
      UserError: num is not positive, a file name for several videos, or a folder that cannot be written.
    """
    if num < 1:
        raise UserError(f"--num must be at least 1, got {num}")
    out, several = Path(out), len(prompts) * num > 1
    names_file = out.suffix.lower() in (*WRITERS, SHEET, KEY_FRAMES)
    if names_file and several:
        raise UserError(f"{out} is one file, but {len(prompts) * num} videos are asked for; give a folder")
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


class Record:
    """What a folder already has: a line for every finished video, with all that decides how it looks.

    Args:
      path: JSON lines; None keeps none, and then nothing is ever done already.
      asked: what all videos of a run have in common.
    """

    def __init__(self, path: Path | None, asked: dict[str, Any]):
        self.path, self.asked = path, asked

    def left(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are still to be made: not recorded in this way, or a file of theirs is gone."""
        lines = read_lines(self.path) if self.path else []
        done = {_text({key: line[key] for key in line if key != "files"}) for line in lines if self._is_there(line)}
        return [job for job in jobs if _text(self._line(job)) not in done]

    def add(self, job: Job, files: Sequence[Path]) -> None:
        """A video is finished."""
        if self.path is None:
            return
        line = _text(self._line(job) | {"files": [file.name for file in files]})
        with self.path.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            ended = file.read() in (b"", b"\n")  # not where a kill has cut a line
            file.write(f"{'' if ended else chr(10)}{line}\n".encode())

    def _line(self, job: Job) -> dict[str, Any]:
        return {"video": job.path.name, "prompt": job.prompt, "copy": job.copy, **self.asked}

    def _is_there(self, line: Any) -> bool:
        names = line.get("files") if isinstance(line, dict) else None
        return bool(names) and all((self.path.parent / Path(name).name).exists() for name in names)


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, sort_keys=True)


def run_jobs(
    jobs: Sequence[Job],
    *,
    seed: int,
    together: int,
    make: Callable[[list[str], Key[Array, "B"]], Sequence],
    write: Callable[[Path, str, Any], list[Path]],
    record: Record,
) -> list[Path]:
    """Makes everything, some videos together, and returns the paths. Files are written while the next batch is made.

    Args:
      make: prompts and keys -> one result a prompt.
      write: path, prompt and result -> the files written.
      record: is told of every finished video.
    """

    def finish(job: Job, result) -> list[Path]:
        files = write(job.path, job.prompt, result)
        record.add(job, files)
        logging.info("wrote %s", job.path)
        return files

    finishing: list[Future] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        for start in range(0, len(jobs), together):
            part = jobs[start : start + together]
            filled = [part[i % len(part)] for i in range(together)]  # one shape: compiled once
            keys = jnp.stack([_job_key(seed, job) for job in filled])
            results = make([job.prompt for job in filled], keys)
            for done in finishing:
                done.result()  # a disk that is full ends the run here
            finishing += [pool.submit(finish, job, result) for job, result in zip(part, results)]
    return [path for done in finishing for path in done.result()]


def together_of(batch: int, videos: int) -> int:
    """How many are made together: no more than there are, and as many for every device of the mesh."""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, got {batch}")
    return round_up(min(batch, videos))


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


def write_picture(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> list[Path]:
    """Writes a PNG."""
    video_io.write_contact_sheet(path, [picture[None]])
    return [path]


def write_key_frames(path: Path, ids: Int[Array, "T N"], *, prompt: str, fps: float, tokenizer: str) -> list[Path]:
    """Writes what stage 2 needs to go on: a few kilobytes.

    Args:
      fps: frames a second of the key frames.
      tokenizer: fingerprint of the one whose ids they are.
    """
    path = path.with_suffix(KEY_FRAMES)
    description = {"kind": "keyframes", "prompt": prompt, "fps": fps, "tokenizer": tokenizer}
    save_weights(path, {"ids": np.asarray(ids, np.int32)}, description)
    return [path]


def read_key_frames(path: Path, *, tokenizer: str) -> tuple[Int[np.ndarray, "T N"], str, float]:
    """Ids, prompt and frames a second.

    Raises:
      UserError: no such file, or one of another kind or another tokenizer.
    """
    tree, description = load_weights(path)
    if description.get("kind") != "keyframes" or set(tree) != {"ids"}:
        raise UserError(f"{path} holds no key frames; `cogvideo generate --key-frames` writes them")
    if description["tokenizer"] != tokenizer:
        raise UserError(f"{path} was made with another tokenizer than that of these weights")
    return tree["ids"], description["prompt"], description["fps"]


def read_frames(path: Path, *, fps: float, size: int, max_seconds: float) -> UInt8[np.ndarray, "T H W 3"]:
    """An odd number of at least three frames of a user's video, at `fps`.

    Raises:
      UserError: the video cannot be read or is too short.
    """
    frames = video_io.read_video(path, fps=fps, max_seconds=max_seconds, size=size)
    frames = frames[: len(frames) - 1 + len(frames) % 2]
    if len(frames) < 3:
        raise UserError(f"{path} is too short: it has {len(frames)} frames at {fps:g} a second, and 3 are needed")
    return frames


def usable(video: TextToVideo, jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """Those whose prompts the weights can take, and one sentence for every other prompt."""
    good, complaints = [], {}
    for job in jobs:
        try:
            video.check(job.prompt)
            good.append(job)
            if job.copy == 0 and (unknown := video.out_of_vocabulary(job.prompt)):
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
        raise UserError(f"folder {folder} cannot be written: {error.strerror or error}") from error
