"""The launch path itself: several processes train as one, survive kills, and stop together.

COGVIDEO_KILLS sets how many processes are killed one after the other (by default 1), COGVIDEO_PROCESSES how many run.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cogvideo_jax.training.config_files import load_config
from tests.devices import environment
from tests.training.run import train

LOCAL = Path(__file__).parents[2] / "launch" / "local.sh"
KILLS = int(os.environ.get("COGVIDEO_KILLS", "1"))
PROCESSES = int(os.environ.get("COGVIDEO_PROCESSES", "2"))
MESH = dict(data=PROCESSES, fsdp=2, tensor=1)

pytestmark = pytest.mark.slow


@pytest.fixture
def write_config(make_config, tmp_path):
    """Settings -> a config file that a process of its own can read."""

    def write(**changes) -> Path:
        config = make_config("base", **dict(batch_size=8, checkpoint_every=10) | changes)
        path = tmp_path / "config.py"
        path.write_text(
            "import json\nfrom ml_collections import ConfigDict\n\n\n"
            f"def get_config():\n    return ConfigDict(json.loads({json.dumps(config.to_json())}))\n"
        )
        return path

    return write


def start(config: Path, workdir: Path, port: int, **variables) -> subprocess.Popen:
    """The local script with PROCESSES processes of two devices each."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = dict(PROCESSES=PROCESSES, PORT=port, PAUSE=1, RESTARTS=3 * KILLS + 1) | variables
    env = environment(2) | dict(PATH=path) | {name: str(value) for name, value in variables.items()}
    with (workdir.parent / "log").open("ab") as log:
        return subprocess.Popen([LOCAL, config, workdir], env=env, stderr=log, stdout=log)


def trainers(run: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train, of a script that runs."""
    found = []
    for child in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            words = child.cmdline()
            if words[-1:] == ["--distributed"] and "bash" not in words[0]:
                found.append(child)
    return found


def losses(workdir: Path) -> dict[int, float]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def wait_until(happened, run: subprocess.Popen, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert run.poll() is None, f"ended with {run.returncode}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def kill_one(run: subprocess.Popen, rng: random.Random) -> float:
    """Seconds until all have stopped after one was killed."""
    together = trainers(run)
    rng.choice(together).send_signal(signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: not set(together) & set(trainers(run)), run, seconds=60)
    return time.monotonic() - begun


def test_a_run_survives_kills_saves_when_told_to_end_and_goes_on_with_half_its_processes(write_config, tmp_path):
    steps, workdir, rng, killed = 100 * KILLS, tmp_path / "run", random.Random(0), []
    run = start(write_config(steps=steps, mesh=MESH), workdir, 12500)
    for _ in range(KILLS):
        enough = max(losses(workdir), default=0) + rng.randint(6, 12)
        wait_until(lambda enough=enough: max(losses(workdir), default=0) > enough, run, seconds=300)
        killed.append(kill_one(run, rng))
        before = losses(workdir)  # nothing writes until the restart
        last = max(before)
        wait_until(lambda last=last: len(losses(workdir)) > last, run, seconds=300)
        again = losses(workdir)
        assert {step: again[step] for step in before} == before  # those after the last checkpoint were made anew
    print(f"all {PROCESSES} processes had stopped after {max(killed):.0f} s at most, {KILLS} kills")

    trainers(run)[-1].terminate()  # one of them; the others learn of it
    assert run.wait(timeout=120) == 130, (tmp_path / "log").read_text()[-3000:]
    saved = max(losses(workdir))
    assert saved == max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.is_dir())

    half = max(1, PROCESSES // 2)
    run = start(write_config(steps=steps, mesh=MESH | dict(data=half)), workdir, 12700, PROCESSES=half)
    assert run.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-3000:]
    train(load_config(write_config(steps=steps, mesh=dict(data=1, fsdp=1, tensor=1)), []), tmp_path / "alone")
    expected, found = losses(tmp_path / "alone"), losses(workdir)
    for step in range(1, min(saved + 20, steps)):
        assert found[step] == pytest.approx(expected[step], rel=1e-3)
