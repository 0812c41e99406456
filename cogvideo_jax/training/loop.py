"""The only training loop: config and workdir in, trained weights out. Reads as chapters."""

import signal
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from cogvideo_jax.errors import NonFiniteLoss
from cogvideo_jax.models.cogvideo.training.tasks import Part, build_part
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.checkpoint import Checkpoints
from cogvideo_jax.runtime.memory import Phase, require, tell_peak
from cogvideo_jax.training.config_files import check_keys
from cogvideo_jax.training.metrics import MetricsWriter
from cogvideo_jax.training.state import count, make_schedule


class Interrupted(Exception):
    """The run was asked to stop; everything up to the named step is saved."""


def train(config: ConfigDict, workdir: str | Path) -> Path:
    """Trains one part until `config.steps`, going on from the newest checkpoint in `workdir`.

    Args:
      config: one of configs/; every key is in the file.
      workdir: checkpoints/, metrics.jsonl and, at the end, weights.safetensors.

    Returns:
      Path of the trained weights.

    Raises:
      UserError: settings or files that do not fit.
      FloatingPointError: the loss is not finite; names the step.
      Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    check_keys(config)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)

    # Devices, model, memory.
    mesh = meshes.make_mesh(config.mesh.to_dict())
    with jax.set_mesh(mesh):
        part = build_part(config, mesh)
        planned = require([part.plan()])

        # Data, what is only read, what is learned.
        batches, frozen = part.batches(), part.frozen()
        checkpoints = Checkpoints(workdir, keep=config.keep_checkpoints)
        step, state = _begin(part, batches, checkpoints)
        logging.info("%s: %d numbers in the state, %s", config.part, count(state), jax.devices()[0].platform)

        # Steps.
        stop = _StopRequest(checkpoints)
        metrics = MetricsWriter(workdir / "metrics.jsonl", first_step=step, steps=config.steps)
        try:
            state = _steps(config, part, step, state, frozen, batches, mesh, checkpoints, metrics, stop)
        finally:
            metrics.close()
            checkpoints.close()
            stop.restore()

        # Weights.
        tell_peak(planned)
        weights = workdir / "weights.safetensors"
        part.export(state, weights)
    return weights


def plan(config: ConfigDict) -> list[Phase]:
    """What `train` will take of memory; reads no data and no weights."""
    check_keys(config)
    mesh = meshes.make_mesh(config.mesh.to_dict())
    with jax.set_mesh(mesh):
        return [build_part(config, mesh).plan()]


def _begin(part: Part, batches, checkpoints: Checkpoints) -> tuple[int, PyTree]:
    """Newest saved step and its state, with the batches at their place; or step zero."""
    found = checkpoints.restore(part.abstract[0])
    if found is None:
        return 0, part.first_state()
    step, state, place = found
    batches.set_state(place)
    logging.info("resumed at step %d", step)
    return step, state


def _steps(
    config, part: Part, step: int, state, frozen, batches, mesh, checkpoints: Checkpoints, metrics: MetricsWriter, stop
):
    """Runs from `step` to the end; nothing in it waits for the device except where figures are written."""
    base_rng = jax.random.key(config.seed + 1)
    schedule = make_schedule(config.optimizer, steps=config.steps)
    pending, since = [], time.monotonic()
    while step < config.steps:
        batch = meshes.put_batch(next(batches), mesh)
        state, scalars = part.step(state, frozen, batch, jax.random.fold_in(base_rng, step))
        step += 1
        pending.append((step, scalars))
        stopping = stop.asked(step)
        saves = step % config.checkpoint_every == 0 or step == config.steps or stopping
        if step % config.log_every == 0 or saves:
            values = _finite(pending)
            elapsed = time.monotonic() - since
            values["learning_rate"] = float(schedule(step - 1))
            values["tokens_per_second"] = part.tokens_per_batch * len(pending) / elapsed
            pending, since = [], time.monotonic()
            if step % config.log_every == 0:
                metrics.write(step, values)
        if saves:
            checkpoints.save(step, state, batches.get_state())
        if stopping and step < config.steps:
            raise Interrupted(f"stopped and saved at step {step}; the same command goes on from there")
    return state


def _finite(pending: list[tuple[int, dict]]) -> dict[str, float]:
    """The newest step's scalars, after making sure that no step since the last look was bad."""
    losses = jax.device_get([scalars["loss"] for _, scalars in pending])
    for (step, _), loss in zip(pending, losses):
        if not np.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss of step {step} is {loss}; lower the learning rate, or restart from the last checkpoint"
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
