"""Options that several commands share, and what they mean."""

import importlib.util
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideo_jax.errors import UserError

WEIGHTS = "folder of weights, or a name on the hub such as THUDM/CogVideoX-2b; by default those of the demo"
TRAINING_LIBRARIES = ("array_record", "grain", "tensorflow_datasets", "sklearn")

if TYPE_CHECKING:
    from jax import Device

    from cogvideo_jax.interface import Family, Opening
    from cogvideo_jax.text_to_video import TextToVideo


def add_family(parser: ArgumentParser, arguments: Sequence[str]) -> "Family":
    """--family of commands that read no folder which names it; returns the family that is asked for."""
    from cogvideo_jax.models import registry

    parser.add_argument("--family", default=registry.DEFAULT, help="of models: " + ", ".join(registry.FAMILIES))
    words = [word for text in arguments for word in text.split("=", 1)]
    asked = words.index("--family") + 1 if "--family" in words else len(words)
    name = words[asked] if asked < len(words) else registry.DEFAULT
    return registry.family(name if name in registry.FAMILIES else registry.DEFAULT)


def require_extra(name: str, modules: Sequence[str]) -> None:
    """Raises UserError if a library of an extra of this package is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f'this needs {", ".join(missing)}; install the extra with pip install ".[{name}]"')


def add_weights(parser: ArgumentParser) -> None:
    """What `generate` and `interpolate` share: the weights, how they are run, and what is written."""
    parser.add_argument("--weights", help=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gif", action="store_true", help="also write a gif")
    parser.add_argument("--sheet", action="store_true", help="also write a PNG with all frames in a grid")
    parser.add_argument("--no-superres", "--no-upscale", action="store_true", help="leave out super-resolution")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="by default float32 on a CPU, else bfloat16")
    parser.add_argument("--compat", choices=("exact", "release"), default="exact", help="release: with its quirks")
    parser.add_argument("--dry-run", action="store_true", help="print steps, programs, memory and time, and stop")
    add_force(parser)
    add_opening(parser)


def add_opening(parser: ArgumentParser) -> None:
    """How weights are opened and devices share the work."""
    kinds = "kept as int8: fewer bytes to read, and not quite the same videos"
    parser.add_argument("--int8", nargs="+", choices=("weights", "cache"), default=[], help=kinds)
    growing = "a program for every key frame, which reads no frames that do not exist yet: for long work"
    parser.add_argument("--growing-cache", action="store_true", help=growing)
    parser.add_argument("--tensor", type=int, default=1, help="devices that share one video; others make other videos")
    parser.add_argument(
        "--sequence", type=int, default=1, help="devices that share a clip's tokens, of weights that denoise"
    )
    parser.add_argument("--fsdp", type=int, default=1, help="devices that keep a share of every matrix each")
    parser.add_argument("--compilation-cache", metavar="FOLDER", help="keep compiled programs here for the next call")
    parser.add_argument("--one-stage-at-a-time", action="store_true", help="least memory: load each stage anew")


def add_force(parser: ArgumentParser) -> None:
    """--force of commands that write files."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def prepare_devices(options: Namespace, devices: Sequence["Device"] | None = None) -> None:
    """Where compiled programs are kept, and how the devices share the work; before weights are opened.

    Args:
      devices: by default those of this machine.
    """
    import jax

    from cogvideo_jax.runtime.mesh import make_mesh

    axes = {name: getattr(options, name) for name in ("tensor", "sequence", "fsdp")}
    for name, size in axes.items():
        if size < 1:
            raise UserError(f"--{name} must be at least 1, got {size}")
    if options.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(options.compilation_cache).absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if max(axes.values()) > 1 or devices or len(jax.devices()) > 1:
        jax.set_mesh(make_mesh(dict(data=-1) | axes, devices))


def opening_of(options: Namespace) -> "Opening":
    """How the options want weights to be opened."""
    from cogvideo_jax.interface import Opening

    names = ("dtype", "one_stage_at_a_time", "growing_cache")
    return Opening(int8=tuple(options.int8), **{name: getattr(options, name) for name in names})


def open_weights(options: Namespace, devices: Sequence["Device"] | None = None) -> "TextToVideo":
    """The folder that the options name, on prepared devices."""
    from cogvideo_jax.text_to_video import load

    prepare_devices(options, devices)
    return load(options.weights, **opening_of(options).model_dump())


CLIPS = (".mp4", ".gif", ".png")  # what --out may name; .png has all frames in a grid


def formats_of(options: Namespace) -> list[str]:
    """Suffixes of the files of each video."""
    return [".mp4", *([".gif"] if options.gif else []), *([".png"] if options.sheet else [])]


def batch_together(options: Namespace, videos: int) -> int:
    """How many videos are made together."""
    from cogvideo_jax.jobs import together_of

    if options.num < 1:
        raise UserError(f"--num must be at least 1, got {options.num}")
    return together_of(options.batch, videos)
