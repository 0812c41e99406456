"""`cogvideo convert` for CogVideoX: its options; the work itself is imported when it is asked for."""

from argparse import ArgumentParser, Namespace

from cogvideo_jax.interface import Command


def add_arguments(parser: ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "source",
        help="SAT folder, its zip or .pt file: of a transformer, of its LoRA, or of a VAE; or a snapshot",
    )
    parser.add_argument(
        "target", help="snapshot to fill; .safetensors file of a LoRA; with --to-diffusers a new folder"
    )
    parser.add_argument("--text-encoder", metavar="FOLDER", help="T5 and its tokenizer, which join the snapshot")
    parser.add_argument(
        "--config", metavar="FILE", help="config.json of a model that is no release, for what its tensors do not tell"
    )
    parser.add_argument("--drop-unexpected", action="store_true", help="leave out names that are not known")
    parser.add_argument("--to-diffusers", action="store_true", help="the way back: SOURCE, a snapshot, as a new one")
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE[=SCALE]", help="merge it on the way back; repeatable"
    )


def run(options: Namespace) -> list[str]:
    """Folders and files that were written."""
    from cogvideo_jax.models.cogvideox.convert.command import convert_as_asked

    return convert_as_asked(options)


CONVERT = Command(add_arguments, run)
