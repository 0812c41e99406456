"""`cogvideo plan`: memory that a run will take. Loads no transformer and runs nothing."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from cogvideo_jax.cli import generate, train
from cogvideo_jax.cli import options as shared

TOPOLOGY = "compile for TPUs that are not here, e.g. v5e:16x16 or 2*v5p:4x4x4"


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """`cogvideo plan train` and `cogvideo plan generate` take the arguments of the command itself."""
    parser.description = "Loads no transformer and runs nothing."
    what = parser.add_subparsers(dest="what", required=True)
    training = what.add_parser("train", help="bytes of a training step; also on TPUs that are not here")
    train.add_arguments(training, arguments)
    training.add_argument("--topology", help=TOPOLOGY)
    training.set_defaults(run=plan_train)
    making = what.add_parser("generate", help="bytes of every step of a video")
    generate.add_arguments(making, arguments)
    making.add_argument("--topology", help=TOPOLOGY)
    making.set_defaults(run=plan_generate)


def plan_train(options: Namespace, overrides: list[str]) -> int:
    """Bytes of a training step, and with --topology what TPU's compiler says."""
    shared.require_extra("train", shared.TRAINING_LIBRARIES)
    from cogvideo_jax.training.compile_report import describe, estimate_step
    from cogvideo_jax.training.config_files import read_config
    from cogvideo_jax.training.loop import plan

    config, task = read_config(options.config, overrides, train.tasks_of)
    if options.topology is None:
        return _show(plan(config, task.build))
    report = estimate_step(config, task, options.topology)
    print(describe(report))
    return 0 if report.fits else 2


def plan_generate(options: Namespace, rest: list[str]) -> int:
    """Bytes of every step of a call of `generate`, and with --topology what TPU's compiler says."""
    from cogvideo_jax import jobs as job
    from cogvideo_jax.chain_report import describe, estimate_chain
    from cogvideo_jax.runtime.topology import open_topology

    prompts = generate.prompts_of(options)
    devices, chip = open_topology(options.topology) if options.topology else (None, None)
    pipe = shared.open_weights(options, devices)
    wish = generate.wish_of(options, pipe)
    jobs = [job.Job(prompt, copy, job.Path()) for prompt in prompts for copy in range(options.num)]
    good, complaints = job.usable(pipe, jobs, wish)
    if not good:
        raise job.UserError(complaints[0])
    together = shared.batch_together(options, len(good))
    request = job.request_of((good * together)[:together], wish, seed=0)
    if chip is None:
        return _show(pipe.plan(request).phases)
    report = estimate_chain(pipe.sampler, request, chip=chip, devices=len(devices))
    print(describe(report))
    return 0 if report.fits else 2


def _show(phases) -> int:
    from cogvideo_jax.runtime.memory import require, room, table

    has = room()
    print(table(phases, has))
    require(phases, has)
    return 0
