"""`cogvideo convert` for CogVideo: which converter a source needs."""

import sys
from argparse import Namespace
from pathlib import Path

from cogvideo_jax.convert.workspace import workspace
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.assemble import add_labels, add_text_model
from cogvideo_jax.models.cogvideo.convert import to_ours
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.weights import LABELS, TEXT_MODEL
from cogvideo_jax.runtime.digests import forget_digests, note_digests
from cogvideo_jax.runtime.files import require_free

COPIED = {".model": (TEXT_MODEL, add_text_model), ".npy": (LABELS, add_labels)}  # by the suffix of the source


def run(options: Namespace) -> list[str]:
    """Files that were written; notes for the user go to stderr."""
    if options.to_official:
        if options.part is None:
            raise UserError("--to-official needs --part: the part of SOURCE to export")
        return [str(convert_back(options.source, options.target, part=options.part, replace=options.force))]
    if Path(options.source).suffix in COPIED:
        return [str(_copy(Path(options.source), Path(options.target), replace=options.force))]
    settings = dict(part=options.part, heads=options.heads, drop_unexpected=options.drop_unexpected)
    converted = to_ours.convert(options.source, options.target, replace=options.force, **settings)
    for note in converted.notes:
        print(f"cogvideo convert: {note}", file=sys.stderr)
    return [str(file) for file in converted.files]


def _copy(source: Path, target: Path, *, replace: bool) -> Path:
    """Adds a file that is taken as it is to a folder of weights."""
    name, add = COPIED[source.suffix]
    with workspace(target):
        require_free(target / name, replace=replace)
        forget_digests(target, [name])
        add(source, target, replace=replace)
        note_digests(target)
    return target / name
