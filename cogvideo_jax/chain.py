"""Everything that walks a list of steps: running it, planning its memory, predicting its time."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from cogvideo_jax.interface import Clips, Program, Request, Sampler, Step
from cogvideo_jax.runtime.memory import Phase, compile_all, fits, working_bytes
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.progress import progress_bar

# Host memory of small programs that are compiled on the way, and of the video encoder; measured on the demo, CPU.
OVERHEAD = 250 * 2**20
Found = TypeVar("Found")


class Planned(NamedTuple):
    """A chain that was compiled but not run.

    Attributes:
      steps: the chain.
      phases: memory of each step.
      programs: compiled programs of each step, with their calls.
    """

    steps: list[Step]
    phases: list[Phase]
    programs: list[list[tuple[jax.stages.Compiled, int]]]


class Predicted(NamedTuple):
    """Seconds of each step, from one call of each of its programs."""

    names: list[str]
    seconds: list[float]


def run(
    steps: Sequence[Step], *, progress: bool = False, on_step: Callable[[str, float], Any] = lambda name, seconds: None
) -> Clips:
    """Runs a chain.

    Args:
      progress: show one bar over all calls on a terminal.
      on_step: told the name and the seconds of every step.
    """
    result: Any = None
    with progress_bar(total=sum(step.calls for step in steps), disable=not progress) as bar:
        for step in steps:
            bar.set_description(step.name)
            begun = time.perf_counter()
            result = step.run(result, bar.update)
            on_step(step.name, time.perf_counter() - begun)
    return result


def plan(sampler: Sampler, request: Request) -> Planned:
    """Compiles a chain and predicts the memory of each step; no transformer is loaded.

    Where a step has a limit, so few rows go through it together that it fits.
    """
    return shrunk(sampler, request, _compiled, lambda planned: map(fits, planned.phases))


def shrunk(
    sampler: Sampler, request: Request, look: Callable[[list[Step]], Found], fit: Callable[[Found], Iterable[bool]]
) -> Found:
    """What is found of a chain whose steps have so few rows a call that each fits, if fewer rows make it fit.

    Args:
      look: a chain -> what is found of it.
      fit: that -> of each step, whether it fits.
    """
    rows: dict[str, int] = {}
    while True:
        steps = sampler.steps(request, rows)
        found = look(steps)
        crowded = next((step for step, good in zip(steps, fit(found)) if not good and _may_shrink(step)), None)
        if crowded is None:
            return found
        rows[crowded.limit] = crowded.rows // 2


def _may_shrink(step: Step) -> bool:
    return bool(step.limit) and step.rows > round_up(1)


def _compiled(steps: list[Step]) -> Planned:
    """All programs of a chain, each traced while the one before is compiled; what several steps share, once."""
    programs: list[list[Program]] = []
    order: dict[int, None] = {}

    def new_ones() -> Iterator[jax.stages.Lowered]:
        for step in steps:
            programs.append(list(step.programs()))
            for lowered, _ in programs[-1]:
                if id(lowered) not in order:
                    order[id(lowered)] = None
                    yield lowered

    compiled = dict(zip(order, compile_all(new_ones())))
    found = [[(compiled[id(lowered)], calls) for lowered, calls in own] for own in programs]
    return Planned(steps, [_phase(step, own) for step, own in zip(steps, found)], found)


def _phase(step: Step, programs: list[tuple[jax.stages.Compiled, int]]) -> Phase:
    memory = step.memory()
    working = max((working_bytes(program, memory.own) for program, _ in programs), default=0)
    shared = working if jax.default_backend() == "cpu" else 0  # taken only when all is loaded
    host = memory.host + max(0, memory.loading - shared) + OVERHEAD
    return Phase(step.name, memory.resident, working, host, step.advice)


def predict(planned: Planned) -> Predicted:
    """Calls each program once on zeros, and multiplies by its calls."""
    measured: dict[int, float] = {}
    seconds = []
    for programs in planned.programs:
        for program, _ in programs:
            if id(program) not in measured:
                measured[id(program)] = seconds_of(program)
        seconds.append(sum(calls * measured[id(program)] for program, calls in programs))
    return Predicted([step.name for step in planned.steps], seconds)


def seconds_of(program: jax.stages.Compiled) -> float:
    """Seconds of the second call of a program, on zeros; the first may still wait for memory."""
    for _ in range(2):
        arguments, named = jax.tree.map(_zeros, program.args_info)
        jax.block_until_ready(arguments)
        begun = time.perf_counter()
        jax.block_until_ready(program(*arguments, **named))
        elapsed = time.perf_counter() - begun
    return elapsed


def _zeros(leaf: Any) -> jax.Array:
    """An array of the shape and type of an argument; True for booleans, so that no row is masked as a whole."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape) if leaf.shape else jax.random.key(0)
    return jnp.full(leaf.shape, leaf.dtype == bool, leaf.dtype)
