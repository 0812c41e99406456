"""Kills commands at random moments and gives them bad disks, looks at what is left, and lets them run to the end.

python -m tests.end_to_end.interruptions TASKS.json FOLDER    (what became of each command comes out as JSON)

Bad disks are mounted, so this needs a mount namespace of its own: unshare -rm python -m ...
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.end_to_end.forks import Command, Run

IN_A_ROW = 3  # kills before a run may end
ONCE = ("convert", "assemble")  # they refuse to write again what is there
TEMPORARY = re.compile(r"\.part$|\.old$|\.converting|-tmp")
PAGE = 4096


def killed(command: Command, expected: dict, seconds: float, *, kills: int, rng: random.Random) -> dict:
    """Kills a command so often, with a run to the end after every third kill at most."""
    told = {"kills": 0, "resumed": 0, "unreadable": [], "lost": [], "different": []}
    while told["kills"] < kills:
        out, before = command.folder / f"try_{told['resumed']}", {}
        for _ in range(min(IN_A_ROW, kills - told["kills"])):
            run = command.run(out, kill_after=rng.uniform(0, seconds))
            if run.status is not None:
                seconds = min(seconds, run.seconds)
                break
            told["kills"] += 1
            found = command.found(out)
            told["unreadable"] += found.unreadable
            told["lost"] += [name for name, one in before.items() if _is_lost(one, found.finished.get(name))]
            before = found.finished
            if command.kind in ONCE and command.result(out) == expected:  # it was about to end
                break
        else:
            command.run(out)
        told["resumed"] += 1
        told["different"] += [str(out)] if command.result(out) != expected else []
    return told


def _is_lost(before: str | int, after: str | int | None) -> bool:
    return after is None or (after < before if isinstance(before, int) else after != before)


def on_bad_disks(command: Command, expected: dict, seconds: float, *, rng: random.Random) -> dict:
    """Runs a command on a disk that is read-only, then full, then emptied meanwhile; and to the end on a slow one.

    Returns:
      by disk, the exit status, what the command said last, and what it should not have left.
    """
    disk, reference = command.folder / "disk", command.folder / "reference"
    out, told = disk / "out", {}
    pages = sum(-(-path.stat().st_size // PAGE) + 1 for path in reference.rglob("*"))
    disk.mkdir()
    _mount("-t", "tmpfs", "-o", "ro", "none", disk)
    told["read-only"] = _told(command, out, command.run(out))
    _mount("-o", f"remount,rw,size={pages // 2 * PAGE}", disk)
    told["full"] = _told(command, out, command.run(out))
    _mount("-o", "remount,rw,size=1g", disk)
    # The reference run also compiled, so half its seconds lie within this one.
    remover = threading.Timer(rng.uniform(0, seconds / 2), shutil.rmtree, [out], {"ignore_errors": True})
    remover.start()
    told["emptied"] = _told(command, out, command.run(out))
    remover.join()
    if command.kind in ONCE:
        shutil.rmtree(out, ignore_errors=True)
    told["slow"] = _told(command, out, command.run(out, prepare=_slow_down))
    told["slow"]["same"] = command.result(out) == expected
    return told


def _told(command: Command, out: Path, run: Run) -> dict:
    lines = [line for line in run.printed.splitlines() if line.startswith(("cogvideo ", "Traceback"))]
    left = [str(path) for path in out.parent.rglob("*") if TEMPORARY.search(path.name)]
    left += command.found(out).unreadable
    return {"status": run.status, "seconds": round(run.seconds, 1), "said": lines, "left": left}


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _slow_down() -> None:
    """A tenth of a second for every flush and every new name."""
    for name in ("fsync", "replace"):
        quick = getattr(os, name)
        setattr(os, name, lambda *args, quick=quick, **kwargs: (time.sleep(0.1), quick(*args, **kwargs))[1])


if __name__ == "__main__":
    tasks, told = json.loads(Path(sys.argv[1]).read_text()), {}
    for words in tasks["commands"]:
        command = Command(words, Path(sys.argv[2]) / words[0])
        command.folder.mkdir()
        rng = random.Random(int(hashlib.sha256(f"{words[0]} {tasks['seed']}".encode()).hexdigest(), 16))
        reference = command.run(command.folder / "reference")
        expected = command.result(command.folder / "reference")
        if reference.status or expected is None:
            raise RuntimeError(reference.printed)
        told[words[0]] = killed(command, expected, reference.seconds, kills=tasks["kills"], rng=rng)
        if tasks["disks"]:
            told[words[0]]["disks"] = on_bad_disks(command, expected, reference.seconds, rng=rng)
    print(json.dumps(told))
