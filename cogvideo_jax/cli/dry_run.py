"""`--dry-run`: the steps of a chain, with their calls, programs, memory and predicted time."""

from cogvideo_jax import chain
from cogvideo_jax.bench.pipeline import since_start
from cogvideo_jax.runtime.memory import require, table


def show_steps(planned: chain.Planned, *, batches: int = 1) -> None:
    """Prints the chain and what it will take.

    Args:
      batches: how often the chain will run.

    Raises:
      UserError: a step does not fit into memory.
    """
    print(table(planned.phases))
    require(planned.phases)
    compiled = since_start()
    predicted = chain.predict(planned)
    print(f"\n{'step':24}{'calls':>7}{'rows':>6}{'seconds':>10}   programs, with calls of each")
    for step, programs, seconds in zip(planned.steps, planned.programs, predicted.seconds):
        names = ", ".join(f"{_name(program)} x {calls}" for program, calls in programs)
        print(f"{step.name:24}{step.calls:7}{step.rows:6}{seconds:10.2f}   {names}")
    running = batches * sum(predicted.seconds)
    print(
        f"predicted: {compiled + running:.1f} s, of them {compiled:.1f} s to start and compile (as it took now) and "
        f"{running:.1f} s for {batches} x the steps, each program timed by a call on zeros"
    )


def _name(program) -> str:
    """The name of a compiled program's function."""
    return program.as_text().split("\n", 1)[0].removeprefix("HloModule jit_").split(",")[0]
