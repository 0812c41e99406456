"""What `cogvideo convert` for CogVideoX was asked for."""

import sys
from argparse import Namespace

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Lora
from cogvideo_jax.models.cogvideox.convert.from_sat import convert
from cogvideo_jax.models.cogvideox.convert.to_diffusers import convert_back

ONLY_THERE = ("text_encoder", "config", "drop_unexpected")  # options of the way there, and of no other


def convert_as_asked(options: Namespace) -> list[str]:
    """Folders and files that were written; notes for the user go to stderr."""
    if options.to_diffusers:
        for name in ONLY_THERE:
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')} is for checkpoints of SAT; leave it or --to-diffusers out")
        loras = [Lora.of(text) for text in options.lora]
        return [str(convert_back(options.source, options.target, loras=loras, replace=options.force))]
    if options.lora:
        raise UserError("--lora needs --to-diffusers; `cogvideo generate --lora` takes the file as it is")
    given = {name: getattr(options, name) for name in ONLY_THERE}
    converted = convert(options.source, options.target, replace=options.force, **given)
    for note in converted.notes:
        print(f"cogvideo convert: {note}", file=sys.stderr)
    return [str(path) for path in converted.paths]
