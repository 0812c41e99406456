"""The only training loop: config and workdir in, trained weights out. Reads as chapters."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from cogvideo_jax.errors import NonFiniteLoss, UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.checkpoint import Checkpoints
from cogvideo_jax.runtime.files import held
from cogvideo_jax.runtime.memory import Phase, require, tell_peak
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.metrics import MetricsWriter, require_tensorboard
from cogvideo_jax.training.optimizer import make_schedule
from cogvideo_jax.training.parameter_table import parameter_table
from cogvideo_jax.training.profile import Profiled, StepProfile
from cogvideo_jax.training.run_config import agree
from cogvideo_jax.training.samples import write_samples
from cogvideo_jax.training.state import count
from cogvideo_jax.training.task import Batches, Task
from cogvideo_jax.training.validation import validate

WATCHED = ("loss", "gradient_norm", "update_norm")  # a step with one that is not finite is never saved
Build = Callable[[Any, jax.sharding.Mesh], Task]  # of a TaskType


class Interrupted(Exception):
    """The run was asked to stop; everything up to the named step is saved."""


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the steps of a run share."""

    config: TrainConfig
    workdir: Path
    task: Task
    mesh: jax.sharding.Mesh
    frozen: PyTree
    batches: Batches
    held_out: list[PyTree]
    checkpoints: Checkpoints
    metrics: MetricsWriter
    profile: StepProfile
    stop: "_StopRequest"

    def close(self) -> None:
        """Waits until all is on disk, and gives the signals back; each of these even if another fails."""
        with contextlib.ExitStack() as ends:
            for end in (self.stop.restore, self.checkpoints.close, self.metrics.close, self.profile.close):
                ends.callback(end)


def train(config: TrainConfig, workdir: str | Path, build: Build, *, profiled: Profiled | None = None) -> Path:
    """Trains one task until `config.steps`, going on from the newest checkpoint in `workdir`.

    Args:
      config: a checked config, see config_files.py.
      workdir: config.json, checkpoints/, metrics.jsonl and, at the end, weights.safetensors; samples/, tensorboard/
        and profile/ if asked for.
      build: of the config's TaskType.
      profiled: steps whose profile is written to workdir/profile.

    Returns:
      Path of the trained weights.

    Raises:
      UserError: settings or files that do not fit, or another run in `workdir`.
      FloatingPointError: the loss is not finite; names the step.
      Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    _check_process(config)
    workdir = Path(workdir)

    # Devices, model, memory.
    mesh = meshes.make_mesh(dataclasses.asdict(config.mesh))
    with held(workdir) if is_first() else contextlib.nullcontext(), jax.set_mesh(mesh):
        task = build(config, mesh)
        planned = require([task.plan()])

        # Data, what is only read, what is learned; steps.
        run, step, state = _begin(config, workdir, task, mesh, profiled)
        try:
            state = _steps(run, step, state)
        finally:
            run.close()

        # Weights.
        tell_peak(planned)
        weights = workdir / "weights.safetensors"
        task.export(state, weights)
    return weights


def plan(config: TrainConfig, build: Build) -> list[Phase]:
    """Memory that `train` will take; reads no data and no weights."""
    mesh = meshes.make_mesh(dataclasses.asdict(config.mesh))
    with jax.set_mesh(mesh):
        return [build(config, mesh).plan()]


def _check_process(config: TrainConfig) -> None:
    """Raises UserError for settings that this process cannot follow."""
    if config.samples.every and jax.process_count() > 1:
        raise UserError("samples are made by one process only; set samples.every=0")
    if config.tensorboard:
        require_tensorboard()


def _begin(
    config: TrainConfig, workdir: Path, task: Task, mesh: jax.sharding.Mesh, profiled: Profiled | None
) -> tuple[_Run, int, PyTree]:
    """Everything that steps need, the newest saved step and its state; or step zero."""
    batches, frozen = task.batches(), task.frozen()
    held_out = task.validation_batches() if config.validation.held_out else []
    agree(config, workdir)
    checkpoints = Checkpoints(workdir, keep=config.keep_checkpoints)
    step, state = _restore(task, batches, checkpoints)
    logging.info("%s: %d numbers in the state, %s", config.part, count(state), jax.devices()[0].platform)
    logging.info("parameters:\n%s", parameter_table(task))
    profile = StepProfile(workdir / "profile", profiled, first_step=step, last_step=config.steps)
    board = workdir / "tensorboard" if config.tensorboard else None
    metrics = MetricsWriter(workdir / "metrics.jsonl", first_step=step, steps=config.steps, tensorboard=board)
    stop = _StopRequest(checkpoints)
    return (
        _Run(config, workdir, task, mesh, frozen, batches, held_out, checkpoints, metrics, profile, stop),
        step,
        state,
    )


def _restore(task: Task, batches: Batches, checkpoints: Checkpoints) -> tuple[int, PyTree]:
    """Newest saved step and its state, with the batches at their place; or step zero."""
    found = checkpoints.restore(task.abstract.state)
    if found is None:
        return 0, task.first_state()
    step, state, place = found
    batches.set_state(place)
    logging.info("resumed at step %d", step)
    return step, state


def _steps(run: _Run, step: int, state: PyTree) -> PyTree:
    """Runs from `step` to the end; nothing in it waits for the device except where figures are written."""
    config, task = run.config, run.task
    base_rng = jax.random.key(config.seed + 1)
    schedule = make_schedule(config.optimizer, steps=config.steps)
    pending, since = [], time.monotonic()
    while step < config.steps:
        run.profile.before(step)
        batch = meshes.put_batch(next(run.batches), run.mesh)
        state, scalars = task.step(state, run.frozen, batch, jax.random.fold_in(base_rng, step))
        step += 1
        run.profile.after(step, state)
        pending.append((step, scalars))
        stopping = run.stop.asked(step)
        validates = bool(run.held_out) and _due(step, config.validation.every, config.steps)
        logs = step % config.log_every == 0 or validates
        saves = step % config.checkpoint_every == 0 or step == config.steps or stopping
        if logs or saves:
            values = _finite(pending)
            values["learning_rate"] = float(schedule(step - 1))
            values["tokens_per_second"] = task.tokens_per_batch * len(pending) / (time.monotonic() - since)
            if validates:
                values |= validate(task, run.held_out, state, run.frozen, run.mesh)
            if logs:
                run.metrics.write(step, values)
            pending, since = [], time.monotonic()
        if _due(step, config.samples.every, config.steps):
            write_samples(run.workdir / "samples", step, task.sample(state))
            since = time.monotonic()
        if saves:
            run.checkpoints.save(step, state, run.batches.get_state())
        if stopping and step < config.steps:
            raise Interrupted(f"stopped and saved at step {step}; the same command goes on from there")
    return state


def _due(step: int, every: int, steps: int) -> bool:
    """Whether something is done after this step: every so many, and after the last."""
    return every > 0 and (step % every == 0 or step == steps)


def _finite(pending: list[tuple[int, dict]]) -> dict[str, float]:
    """The newest step's scalars, after making sure that no step since the last look was bad."""
    steps = [(step, {name: scalars[name] for name in WATCHED if name in scalars}) for step, scalars in pending]
    for step, values in jax.device_get(steps):
        for name, value in values.items():
            if not np.isfinite(value):
                raise NonFiniteLoss(
                    f"the {name.replace('_', ' ')} of step {step} is {value}; lower the learning rate, or restart from "
                    "the last checkpoint"
                )
    return {name: float(value) for name, value in jax.device_get(pending[-1][1]).items()}


class _StopRequest:
    """Turns Ctrl-C and SIGTERM into a flag that the loop reads between steps.

    Of several processes each may hear a signal at another step, or one alone: there JAX listens for SIGTERM and agrees
    on a step for all.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._asked = False
        self._before = {}
        self._agreed = checkpoints.reached_preemption if jax.process_count() > 1 else None
        for number in (signal.SIGINT, signal.SIGTERM) if self._agreed is None else ():
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: the caller owns the signals
                logging.info("signals are left to the main thread")

    def _ask(self, number, frame):
        del number, frame
        self._asked = True

    def asked(self, step: int) -> bool:
        """Whether the run is to save and stop after this step; to be read once a step."""
        return self._asked if self._agreed is None else self._agreed(step)

    def restore(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
