"""Commands in forks of a process that has loaded the libraries and started no device, and what they leave behind."""

import dataclasses
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cogvideo_jax.cli import verify
from cogvideo_jax.cli.main import main
from cogvideo_jax.cli.train import tasks_of
from cogvideo_jax.data import cache, cache_check, cache_format
from cogvideo_jax.runtime.digests import check_digests
from cogvideo_jax.runtime.files import file_digest
from cogvideo_jax.runtime.media import read_video
from cogvideo_jax.runtime.record import FILE as RECORD
from cogvideo_jax.runtime.weights import require_whole
from cogvideo_jax.training import loop, workdir  # noqa: F401 (loaded before the forks)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as a user types it.

    Attributes:
      words: the arguments; OUT stands for the folder that it writes.
      folder: of its outputs, and of what it prints.
    """

    words: list[str]
    folder: Path

    @property
    def kind(self) -> str:
        return self.words[0]

    def run(self, out: Path, *, kill_after: float | None = None, prepare: Callable[[], object] = lambda: None) -> "Run":
        """Runs it in a process of its own.

        Args:
          prepare: what the process does before.
        """
        log = self.folder / "log"
        log.unlink(missing_ok=True)

        def action() -> int:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            cache.write_token_cache.__kwdefaults__["clips_per_shard"] = 4
            prepare()
            return main([str(out) if word == "OUT" else word for word in self.words])

        begun, status = time.monotonic(), _status_of(action, kill_after=kill_after)
        return Run(status, time.monotonic() - begun, log.read_text() if log.exists() else "")

    def result(self, out: Path) -> dict | None:
        """What two runs to the end must have in common; None before the end."""
        return forked(lambda: _result(self.kind, out))

    def found(self, out: Path) -> "Found":
        """What lies in a folder now."""
        return Found(**forked(lambda: dataclasses.asdict(LOOKS[self.kind](out))))


@dataclasses.dataclass(frozen=True)
class Run:
    """How a run ended: its exit status, None after a kill; its seconds, and what it printed."""

    status: int | None
    seconds: float
    printed: str


@dataclasses.dataclass
class Found:
    """What a look at a folder finds.

    Attributes:
      finished: name -> digest, or the step of the newest checkpoint; none of it may be lost.
      unreadable: a sentence for each file that has its name and is not whole.
    """

    finished: dict[str, str | int]
    unreadable: list[str]


def train(out: Path) -> Found:
    steps = [int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdecimal()]
    unreadable = list(workdir.damages(out, tasks_of)) if (out / "config.json").exists() or steps else []
    return Found({"step": max(steps, default=0)}, unreadable)


def tokenize(out: Path) -> Found:
    notes = [cache_format.shard_number(path) for path in out.glob("shard-*.json")]
    checks = [functools.partial(cache_check._check_shard, out, shard) for shard in notes]
    lines = list(cache_check.damages(out)) if (out / cache_format.META).exists() else []
    return Found(
        {str(shard): file_digest(cache_format.shard_path(out, shard)) for shard in notes}, lines + said(checks)
    )


def convert(out: Path) -> Found:
    checks = [functools.partial(require_whole, path) for path in out.glob("*.safetensors")]
    changed = [line for line in check_digests(out) if "does not exist" not in line]  # the last file is not placed yet
    return Found(_digests(out, "*.safetensors"), said(checks) + changed)


def assemble(out: Path) -> Found:
    return Found(_digests(out, "*"), list(verify.CHECKS["a folder of weights"](out)) if out.exists() else [])


def generate(out: Path) -> Found:
    record = out / RECORD
    rows = list(map(json.loads, record.read_text().splitlines())) if record.exists() else []
    files = {file: digest for row in rows for file, digest in zip(row["files"], row["digests"])}
    lost = [f"{file} is not what was recorded" for file, digest in files.items() if file_digest(out / file) != digest]
    short = [f"{path} is short" for path in out.glob("*.mp4") if len(read_video(path, fps=2.0, max_seconds=60)) != 9]
    return Found(files, lost + short)


LAST = {  # what a command writes at its very end
    "train": "weights.safetensors",
    "tokenize": "meta.json",
    "convert": "stage1.safetensors",
    "assemble": "SHA256SUMS",
    "generate": RECORD,
}
LOOKS = {look.__name__: look for look in (train, tokenize, convert, assemble, generate)}


def _result(kind: str, out: Path) -> dict | None:
    if not (out / LAST[kind]).exists():
        return None
    if kind == "train":
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return {str(row["step"]): row["loss"] for row in rows} | _digests(out, "weights.safetensors")
    files = _digests(out, "*")
    if kind == "generate":
        files[RECORD] = sorted((out / RECORD).read_text().splitlines())
    return files


def _digests(folder: Path, names: str) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.glob(names)) if path.is_file()}


def said(checks: list[Callable[[], object]]) -> list[str]:
    """What checks complain about."""
    lines = []
    for check in checks:
        try:
            check()
        except ValueError as error:
            lines.append(str(error))
    return lines


def _status_of(action: Callable[[], int], *, kill_after: float | None = None) -> int | None:
    """Exit status of an action in a process of its own; None if it was killed."""
    begun, child = time.monotonic(), os.fork()
    if child == 0:
        os._exit(_ended(action))
    while kill_after is None or time.monotonic() - begun < kill_after:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _ended(action: Callable[[], int]) -> int:
    try:
        return action()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1


def forked(look: Callable[[], dict | None]) -> dict | None:
    """What a function returns in a process of its own, as JSON."""
    reading, writing = os.pipe()

    def write() -> int:
        with os.fdopen(writing, "w") as file:
            json.dump(look(), file)
        return 0

    child = os.fork()
    if child == 0:
        os._exit(_ended(write))
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)
