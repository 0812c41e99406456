"""Kills commands at random moments, looks at what is left, and runs them again until they are done.

python -m tests.end_to_end.kills TASKS.json FOLDER    (a list of tasks; what became of each comes out as JSON)

Every run is a fork of this process, which has loaded the libraries and started no device.
"""

import dataclasses
import functools
import hashlib
import json
import os
import random
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

IN_A_ROW = 3  # kills before a run may end
ONCE = ("convert", "assemble")  # they refuse to write again what is there


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


LOOKS = {look.__name__: look for look in (train, tokenize, convert, assemble, generate)}


def result(kind: str, out: Path) -> dict:
    """What two runs to the end must have in common."""
    if kind == "train":
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return {str(row["step"]): row["loss"] for row in rows} | _digests(out, "weights.safetensors")
    files = _digests(out, "*")
    if kind == "generate":
        files[RECORD] = sorted((out / RECORD).read_text().splitlines())
    return files


def killed_and_run_again(kind: str, arguments: list[str], folder: Path, *, kills: int, rng: random.Random) -> dict:
    """Kills a command so often, with a run to the end after every third kill at most."""
    log, tries = folder / "log", 0
    command = lambda out: _command([str(out) if word == "OUT" else word for word in arguments], log)  # noqa: E731
    seconds = _run(command(folder / "reference"))
    expected = _forked(lambda: result(kind, folder / "reference"))
    told = {"kills": 0, "resumed": 0, "unreadable": [], "lost": [], "different": []}
    while told["kills"] < kills:
        out, before, tries = folder / f"try_{tries}", {}, tries + 1
        for _ in range(min(IN_A_ROW, kills - told["kills"])):
            took = _run(command(out), kill_after=rng.uniform(0, seconds))
            if took is not None:
                seconds = min(seconds, took)
                break
            told["kills"] += 1
            found = _forked(lambda out=out: dataclasses.asdict(LOOKS[kind](out)))
            told["unreadable"] += found["unreadable"]
            told["lost"] += [name for name, one in before.items() if _is_lost(one, found["finished"].get(name))]
            before = found["finished"]
            if kind in ONCE and _forked(lambda out=out: result(kind, out)) == expected:  # it was about to end
                break
        else:
            _run(command(out))
        told["resumed"] += 1
        told["different"] += [str(out)] if _forked(lambda out=out: result(kind, out)) != expected else []
    return told


def _is_lost(before: str | int, after: str | int | None) -> bool:
    return after is None or (after < before if isinstance(before, int) else after != before)


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


def _command(arguments: list[str], log: Path) -> Callable[[], int]:
    def run() -> int:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        cache.write_token_cache.__kwdefaults__["clips_per_shard"] = 4
        return main(arguments)

    return run


def _run(action: Callable[[], int], *, kill_after: float | None = None) -> float | None:
    """Seconds that an action took in a process of its own; None if it was killed. Raises if it failed."""
    begun, child = time.monotonic(), os.fork()
    if child == 0:
        os._exit(_status(action))
    while kill_after is None or time.monotonic() - begun < kill_after:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"ended with status {os.waitstatus_to_exitcode(status)}")
            return time.monotonic() - begun
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else time.monotonic() - begun


def _status(action: Callable[[], int]) -> int:
    try:
        return action()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1


def _forked(look: Callable[[], dict]) -> dict:
    """What a function returns in a process of its own, as JSON."""
    reading, writing = os.pipe()

    def write() -> int:
        with os.fdopen(writing, "w") as file:
            json.dump(look(), file)
        return 0

    child = os.fork()
    if child == 0:
        os._exit(_status(write))
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)


if __name__ == "__main__":
    tasks, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    told = {}
    for kind, arguments in tasks["arguments"].items():
        (folder / kind).mkdir()
        seed = int(hashlib.sha256(f"{kind} {tasks['seed']}".encode()).hexdigest(), 16)
        told[kind] = killed_and_run_again(kind, arguments, folder / kind, kills=tasks["kills"], rng=random.Random(seed))
    print(json.dumps(told))
