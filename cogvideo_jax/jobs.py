"""Many prompts to many files: names, formats, what is there already, and batches."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Request, Start
from cogvideo_jax.runtime import media
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.record import Record
from cogvideo_jax.text_to_video import KEY_FRAMES, WRITERS, TextToVideo, Video

LONGEST_NAME = 60
OTHER_MEDIA = (
    ".apng",
    ".avi",
    ".avif",
    ".bmp",
    ".flv",
    ".jpeg",
    ".jpg",
    ".m4v",
    ".mkv",
    ".mov",
    ".mpg",
    ".webm",
    ".webp",
)


class Job(NamedTuple):
    """One video to make."""

    prompt: str
    copy: int  # which of --num
    path: Path  # with the first format's suffix


def safe_name(prompt: str) -> str:
    """A prompt as a file name: letters and digits of any language, the rest underscores; never a path."""
    name = re.sub(r"[^\w]+", "_", prompt.strip().lower()).strip("_")
    return name[:LONGEST_NAME].rstrip("_") or "video"


def names_file(out: str | Path, allowed: Sequence[str]) -> bool:
    """Whether `out` names one file, by its suffix, rather than a folder.

    Raises:
      UserError: the suffix is of media that are not written here.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in allowed and suffix in (*WRITERS, *OTHER_MEDIA):
        raise UserError(f"{out}: this is written as {' or '.join(allowed)}, not as {suffix}")
    return suffix in allowed


def plan_jobs(
    prompts: Sequence[str], *, num: int, out: str | Path, formats: Sequence[str], allowed: Sequence[str]
) -> list[Job]:
    """Where every video goes; creates the folder and makes sure that it can be written.

    Args:
      out: a file name for a single video, otherwise a folder.
      allowed: suffixes that the file may have.

    Raises:
      UserError: num is not positive, a file name for several videos or of another format, or a folder that cannot be
        written.
    """
    if num < 1:
        raise UserError(f"--num must be at least 1, got {num}")
    out, several, one_file = Path(out), len(prompts) * num > 1, names_file(out, allowed)
    if one_file and several:
        raise UserError(f"{out} is one file, but {len(prompts) * num} videos are asked for; give a folder")
    folder = out.parent if one_file else out
    _make_writable(folder)
    if one_file:
        return [Job(prompts[0], 0, out)]
    jobs = []
    for i, prompt in enumerate(prompts):
        name = safe_name(prompt) if len(prompts) == 1 else f"{i + 1:04d}_{safe_name(prompt)}"
        for copy in range(num):
            label = name if num == 1 else f"{name}_{copy + 1}"
            jobs.append(Job(prompt, copy, folder / f"{label}{formats[0]}"))
    return jobs


def left_to_do(jobs: Sequence[Job], record: Record) -> list[Job]:
    """Those that are not recorded in this way, or a file of which is gone."""
    return [job for job in jobs if not record.has(job.path.name, prompt=job.prompt, copy=job.copy)]


def files_of(path: Path, formats: Sequence[str], *, key_frames: bool) -> list[Path]:
    """What is written of one video: every format, beside each other, and first what key frames are continued from."""
    own = path.suffix.lower()
    suffixes = dict.fromkeys([*([KEY_FRAMES, ".mp4"] if key_frames else []), own, *formats[1:]])
    return [path if suffix == own else path.with_suffix(suffix) for suffix in suffixes]  # CLIP.MP4 stays so


def run_jobs(
    jobs: Sequence[Job],
    *,
    pipe: TextToVideo,
    wish: Request,
    seed: int,
    together: int,
    formats: Sequence[str],
    record: Record,
    replace: bool,
    rows: Mapping[str, int] | None = None,
) -> list[Path]:
    """Makes everything, some videos together, and returns the paths. Files are written while the next batch is made.

    Args:
      wish: what is asked of every job beside its prompt.
      formats: suffixes of the files of each video.
      record: is told of every finished video.
      replace: take the place of files that exist.
      rows: limits that the memory plan found; see `Sampler.steps`.
    """
    finishing: list[Future] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        for start in range(0, len(jobs), together):
            part = jobs[start : start + together]
            filled = [part[i % len(part)] for i in range(together)]  # one shape: compiled once
            request = request_of(filled, wish, seed=seed)
            clips = pipe.run(request, steps=pipe.sampler.steps(request, rows), progress=True)
            for done in finishing:
                done.result()  # a disk that is full ends the run here
            videos = pipe.videos(request, clips)
            finishing += [
                pool.submit(_finish, job, video, formats, record, replace) for job, video in zip(part, videos)
            ]
    return [path for done in finishing for path in done.result()]


def request_of(jobs: Sequence[Job], wish: Request, *, seed: int) -> Request:
    """What jobs ask for together. The same prompt, copy and seed give the same video, whatever is made beside it."""
    return wish.of([job.prompt for job in jobs], seeds=[seed] * len(jobs), copies=[job.copy for job in jobs])


def _finish(job: Job, video: Video, formats: Sequence[str], record: Record, replace: bool) -> list[Path]:
    files = save_video(video, job.path, formats, replace=replace)
    record.add(job.path.name, prompt=job.prompt, copy=job.copy, files=[file.name for file in files])
    logging.info("wrote %s", job.path)
    return files


def save_video(video: Video, path: Path, formats: Sequence[str], *, replace: bool) -> list[Path]:
    """Writes the files of one video."""
    files = files_of(path, formats, key_frames=video.features is not None)
    return [video.save(file, replace=replace) for file in files]


def together_of(batch: int, videos: int) -> int:
    """How many are made together: no more than there are, and as many for every device of the mesh."""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, got {batch}")
    return round_up(min(batch, videos))


def usable(pipe: TextToVideo, jobs: Sequence[Job], wish: Request) -> tuple[list[Job], list[str]]:
    """Jobs whose prompts the weights can take, and one sentence for every other prompt.

    Raises:
      UserError: the weights cannot make what is wished for, whatever the prompts.
    """
    pipe.sampler.check_fields(wish)
    good, complaints = [], {}
    for job in jobs:
        try:
            warnings = pipe.sampler.check_prompts(request_of([job], wish, seed=0))
        except UserError as error:
            complaints[job.prompt] = str(error)
        else:
            good.append(job)
            for warning in warnings if job.copy == 0 else ():
                logging.warning(warning)
    return good, list(complaints.values())


def read_start(path: Path, *, fps: float, size: int, max_seconds: float) -> Start:
    """An odd number of at least three frames of a user's video, at `fps`.

    Raises:
      UserError: the video cannot be read or is too short.
    """
    frames = media.read_video(path, fps=fps, max_seconds=max_seconds, size=size)
    frames = frames[: len(frames) - 1 + len(frames) % 2]
    if len(frames) < 3:
        raise UserError(f"{path} is too short: it has {len(frames)} frames at {fps:g} a second, and 3 are needed")
    return Start(frames, fps)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"folder {folder} cannot be written: {error.strerror or error}") from error
