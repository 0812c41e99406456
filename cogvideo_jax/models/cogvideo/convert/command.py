"""`cogvideo convert` for CogVideo: which converter a source needs."""

import sys
from argparse import Namespace
from pathlib import Path

from cogvideo_jax.convert.workspace import workspace
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.assemble import add_labels, add_text_model
from cogvideo_jax.models.cogvideo.convert import to_ours
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back


def run(options: Namespace) -> list[str]:
    """Files that were written; notes for the user go to stderr."""
    if options.to_official:
        if options.part is None:
            raise UserError("--to-official needs --part: the part of SOURCE to export")
        return [str(convert_back(options.source, options.target, part=options.part, replace=options.force))]
    add = {".model": add_text_model, ".npy": add_labels}.get(Path(options.source).suffix)
    if add is not None:
        with workspace(Path(options.target)):
            return [str(add(options.source, options.target, replace=options.force))]
    settings = dict(part=options.part, heads=options.heads, drop_unexpected=options.drop_unexpected)
    converted = to_ours.convert(options.source, options.target, replace=options.force, **settings)
    for note in converted.notes:
        print(f"cogvideo convert: {note}", file=sys.stderr)
    return [str(file) for file in converted.files]
