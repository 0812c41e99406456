"""CogVideo (2022) for the registry. Everything heavy is imported where it is used."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cogvideo_jax
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Command, Encoder, Family, Opening, Sampler
from cogvideo_jax.models.cogvideo.bench.benchmarks import BENCHMARKS, SIZES

PARTS = ("tokenizer", "base", "stage1", "stage2", "superres", "itersr")


def open_folder(folder: Path, opening: Opening) -> Sampler:
    """A folder of weights as a sampler. Raises UserError if something is missing, damaged or does not fit."""
    from cogvideo_jax.models.cogvideo.pipeline import CogVideoSampler
    from cogvideo_jax.models.cogvideo.weights import WeightsFolder

    int8 = "weights" in opening.int8
    weights = WeightsFolder(folder, dtype=opening.dtype, keep=not opening.one_stage_at_a_time, int8=int8)
    return CogVideoSampler(weights, opening)


def check_folder(folder: Path) -> Iterator[str]:
    """Opens everything in a folder of weights. Yields a sentence if something is missing, damaged or does not fit."""
    from cogvideo_jax.models.cogvideo.weights import WeightsFolder

    try:
        weights = WeightsFolder(folder)
        _ = weights.tokenizer, weights.text, weights.labels
    except UserError as error:
        yield str(error)


def random_sampler(size: str, opening: Opening) -> Sampler:
    """Random weights of a size, for benchmarks."""
    from cogvideo_jax.models.cogvideo.bench.sizes import RandomWeights
    from cogvideo_jax.models.cogvideo.pipeline import CogVideoSampler

    keep, int8 = not opening.one_stage_at_a_time, "weights" in opening.int8
    weights = RandomWeights(size, dtype=opening.dtype or "float32", keep=keep, int8=int8)
    return CogVideoSampler(weights, opening)


def open_encoder(tokenizer: str, *, text_model: str | None, text_pieces: int, replace: bool) -> Encoder:
    """The image tokenizer, and the text model that goes with its caches."""
    from cogvideo_jax.models.cogvideo.text_model import CodeEncoder

    return CodeEncoder(tokenizer, text_model=text_model, text_pieces=text_pieces, replace=replace)


def _add_convert_arguments(parser: Any) -> None:
    parser.add_argument(
        "source",
        help="SAT folder or its zip, .pt or safetensors file; ice_text.model; cluster_label2.npy; or our folder",
    )
    parser.add_argument("target", help="our folder of weights; or what to write with --to-official")
    parser.add_argument("--part", choices=PARTS, help="what SOURCE is, where it does not tell; what to export")
    parser.add_argument("--heads", type=int, help="attention heads, where no model_config.json tells them")
    parser.add_argument("--drop-unexpected", action="store_true", help="leave out names that are not known")
    parser.add_argument("--to-official", action="store_true", help="the way back: a new folder, .pt or .safetensors")


def _convert(options: Any) -> list[str]:
    from cogvideo_jax.models.cogvideo.convert.command import run

    return run(options)


def _add_assemble_arguments(parser: Any) -> None:
    for part in ("tokenizer", "base", "stage1", "stage2"):
        parser.add_argument(f"--{part}", required=True, help=f"weights.safetensors of the {part}")
    parser.add_argument("--superres", help="weights.safetensors of direct super-resolution")
    parser.add_argument("--itersr", help="weights.safetensors of iterative super-resolution")
    parser.add_argument("--text-model", required=True, help="text.model of the token cache")
    parser.add_argument("--sampling-config", "--recipe", required=True, help="pipeline.json: how to sample")
    parser.add_argument("--out", required=True, help="folder to write")


def _assemble(options: Any) -> list[str]:
    from cogvideo_jax.models.cogvideo.assemble import assemble

    given = {part: getattr(options, part) for part in PARTS}
    parts = {part: path for part, path in given.items() if path is not None}
    how = dict(text_model=options.text_model, sampling_config=options.sampling_config)
    how |= dict(out=options.out, replace=options.force)
    return [str(assemble(parts, **how))]


def _tasks() -> Mapping[str, Any]:
    from cogvideo_jax.models.cogvideo.training.tasks import TASKS

    return TASKS


FAMILY = Family(
    "cogvideo",
    open_folder,
    demo=Path(cogvideo_jax.__file__).parent / "demo_weights",
    random=random_sampler,
    sizes=SIZES,
    tasks=_tasks,
    encoder=open_encoder,
    benchmarks=BENCHMARKS,
    convert=Command(_add_convert_arguments, _convert),
    assemble=Command(_add_assemble_arguments, _assemble),
    check=check_folder,
)
