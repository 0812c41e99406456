"""What the one training loop needs of anything that trains; the loop knows no model.

TaskType (name in a config) -> schema of its config, build(config, mesh) -> Task -> loop
"""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Float, Key, PyTree
from cogvideo_jax.runtime.memory import Phase, compile_all, tree_bytes, working_bytes
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.samples import Sample

Scalars = dict[str, Float[Array, ""]]


class StepInputs(NamedTuple):
    """Arguments of a step, as arrays or as shapes with types and shardings."""

    state: PyTree
    frozen: PyTree
    batch: PyTree
    rng: Key[Array, ""] | jax.ShapeDtypeStruct


class Work(NamedTuple):
    """Arithmetic of one step, counted from the sizes.

    Attributes:
      useful: operations, without those that are repeated to save memory.
      done: operations, with those.
      weight_passes: how often a step reads all matrices.
    """

    useful: float
    done: float
    weight_passes: int


class Batches(Protocol):
    """Endless batches of this process, from a place that can be saved."""

    def __next__(self) -> PyTree: ...
    def get_state(self) -> dict: ...
    def set_state(self, state: dict) -> None: ...


class Task(abc.ABC):
    """One thing to train. Building it reads no file and fills no memory.

    Attributes:
      config: its settings.
      step: (state, frozen, batch, rng) -> (state, scalars), jitted with the state donated.
      evaluate: (state, frozen, batch) -> scalars without dropout, jitted.
      abstract: shapes, types and shardings of the arguments of `step`.
      tokens_per_batch: for tokens a second.
      loader_bytes: most host memory that its batches keep from one to the next.
    """

    config: TrainConfig
    step: Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], tuple[PyTree, Scalars]]
    evaluate: Callable[[PyTree, PyTree, PyTree], Scalars]
    abstract: StepInputs
    tokens_per_batch: int
    loader_bytes: int = 0

    @abc.abstractmethod
    def batches(self) -> Batches:
        """Batches of this process. Raises UserError for data that do not fit."""

    def validation_batches(self) -> list[PyTree]:
        """This process's part of the held-out examples. Raises UserError if no clip is held out."""
        raise UserError(f"{self.config.part} has no held-out clips; set validation.every=0")

    @abc.abstractmethod
    def frozen(self) -> PyTree:
        """Parameters that are only read. Raises UserError if their file is missing or does not fit."""

    @abc.abstractmethod
    def first_state(self) -> PyTree:
        """State at step zero. Raises UserError if what it starts from is missing or does not fit."""

    @abc.abstractmethod
    def export(self, state: PyTree, path: Path) -> None:
        """Writes the trained weights."""

    def sample(self, state: PyTree) -> list[Sample]:
        """What the state can make, for people to look at."""
        raise UserError(f"{self.config.part} makes no samples; set samples.every=0")

    def trained(self, state: PyTree) -> PyTree:
        """Parameters of a state that training changes."""
        return state.trained

    def plan(self) -> Phase:
        """Memory of a step; the mesh must be set. Compiles the step, which need not be compiled again."""
        weights = tree_bytes((self.abstract.state, self.abstract.frozen))
        [compiled] = compile_all([self.step.lower(*self.abstract)])
        advice = "lower batch_size, set remat=everything, or give mesh.fsdp more devices"
        working = working_bytes(compiled, weights)
        return Phase("a training step", weights, working, host=self.loader_bytes, advice=advice)


@dataclasses.dataclass(frozen=True)
class TaskType:
    """A kind of task that a family offers to `cogvideo train`.

    Attributes:
      schema: frozen dataclass of its config; a TrainConfig.
      build: (config, mesh) -> Task. Raises UserError for settings that do not fit the mesh.
      check: opens the files that a config names and makes sure that they fit, as far as headers tell.
      work: counts the arithmetic of a step; None where it is not counted.
    """

    schema: type[TrainConfig]
    build: Callable[[Any, jax.sharding.Mesh], Task]
    check: Callable[[Any], None]
    work: Callable[[Any], Work] | None = None
