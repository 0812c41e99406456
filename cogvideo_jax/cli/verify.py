"""`cogvideo verify`: names what is damaged in a folder that the other commands wrote."""

import functools
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo verify`."""
    parser.description = "Reads everything, prints a line for each damaged file, and ends with status 0 or 2."
    parser.add_argument("folder", help="weights, a token cache, or the workdir of a training")
    parser.set_defaults(run=run)


def run(options: Namespace, rest: list[str]) -> int:
    """Prints a line for everything that is damaged."""
    folder = Path(options.folder)
    found = [kind for kind, names in NAMES.items() if any(any(folder.glob(name)) for name in names)]
    if not found:
        raise UserError(f"{folder} is no folder of weights, no token cache and no workdir of a training")
    damages = list(dict.fromkeys(CHECKS[found[0]](folder)))
    print(*damages or [f"{folder}: {found[0]}, whole"], sep="\n")
    return 2 if damages else 0


def _cache(folder: Path) -> Iterator[str]:
    shared.require_extra("train", shared.TRAINING_LIBRARIES)
    from cogvideo_jax.data.cache_check import damages

    yield from damages(folder)


def _workdir(folder: Path) -> Iterator[str]:
    shared.require_extra("train", shared.TRAINING_LIBRARIES)
    from cogvideo_jax.cli.train import tasks_of
    from cogvideo_jax.training.workdir import damages

    yield from damages(folder, tasks_of)


def _weights(folder: Path) -> Iterator[str]:
    from cogvideo_jax.runtime.digests import check_digests

    files = [functools.partial(_whole, path) for path in sorted(folder.glob("*.safetensors"))]
    for check in (functools.partial(check_digests, folder), *files, functools.partial(_fits, folder)):
        try:
            yield from check()
        except UserError as error:
            yield str(error)


def _whole(path: Path) -> Iterable[str]:
    from cogvideo_jax.runtime.weights import require_whole

    require_whole(path)
    return ()


def _fits(folder: Path) -> Iterable[str]:
    from cogvideo_jax.interface import DEFAULT_OPENING
    from cogvideo_jax.models import registry

    family = registry.family_of(folder)
    if family.check is not None:
        return family.check(folder)
    family.open(folder, DEFAULT_OPENING)
    return ()


NAMES = {  # what tells the kinds of folders apart
    "a token cache": ("plan.json", "meta.json", "shard-*"),
    "the workdir of a training": ("checkpoints", "config.json", "metrics.jsonl"),
    "a folder of weights": ("pipeline.json", "model_index.json", "SHA256SUMS", "*.safetensors"),
}
CHECKS = dict(zip(NAMES, (_cache, _workdir, _weights)))
