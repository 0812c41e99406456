"""The scripts of launch/: their dry runs, their restarts, and shellcheck."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
SETTINGS = {"NAME": "pod", "ZONE": "here", "IMAGE": "image", "GPUS": "8"}
ARGUMENTS = ["configs/demo_base.py", "runs/base", "--config.steps=3"]


def dry_run(name: str, *arguments: str, **variables: str) -> str:
    command = ["bash", LAUNCH / name, "--dry-run", *arguments]
    return subprocess.run(
        command, env=os.environ | SETTINGS | variables, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_stop_at_errors(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 40 and "\nset -euo pipefail\n" in text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["local.sh", "gpu.sh", "slurm.sh", "tpu_pod.sh", "gke_jobset.sh"])
def test_a_dry_run_shows_the_training_command(name):
    said = dry_run(name, *ARGUMENTS).replace("\\", "").replace('", "', " ").replace(", ", " ").replace('"', "")
    assert "cogvideo train" in said
    for argument in ("--config=configs/demo_base.py", "--workdir=runs/base", "--config.steps=3"):
        assert argument in said
    assert ("--distributed" in said) == (name in {"slurm.sh", "tpu_pod.sh", "gke_jobset.sh"})


def test_several_processes_know_who_they_are():
    lines = dry_run("local.sh", *ARGUMENTS, PROCESSES="3").splitlines()
    assert len(lines) == 3
    for place, line in enumerate(lines):
        assert f"JAX_PROCESS_ID={place} " in line and "JAX_NUM_PROCESSES=3 " in line


@pytest.mark.parametrize(
    "codes, expected, starts",
    [([134, 0], 0, 2), ([1, 1, 1], 1, 3), ([2], 2, 1), ([130], 130, 1)],
)
def test_a_crash_is_started_again_and_an_answer_is_not(tmp_path, codes, expected, starts):
    command = tmp_path / "command"
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    command.write_text(
        'cd "$(dirname "$0")"\ncode=$(head -1 codes)\nsed -i 1d codes\necho started >> log\nexit "$code"\n'
    )
    env = os.environ | {"PAUSE": "0", "RESTARTS": "2"}
    done = subprocess.run([LAUNCH / "restart.sh", "bash", command], env=env, capture_output=True)
    assert done.returncode == expected
    assert (tmp_path / "log").read_text().count("started") == starts


def test_the_bench_of_a_gpu_measures_what_is_named():
    everything, one = (dry_run("bench_gpu.sh", "figures", *names).splitlines() for names in ((), ("train2",)))
    assert len(everything) == 15
    assert one == [line for line in everything if line.startswith("train2: cogvideo bench train --stage stage2 ")]
    assert one[0].endswith("--size full --dtype bfloat16 --out figures/train2.json")
