"""Whether a token cache is as it was written."""

import math
from collections.abc import Iterator
from pathlib import Path

from array_record.python.array_record_data_source import ArrayRecordDataSource

from cogvideo_jax.data.cache import digest_of
from cogvideo_jax.data.cache_format import (
    META,
    PLAN,
    Plan,
    ShardNotes,
    read_meta,
    shard_notes,
    shard_number,
    shard_path,
    unpack,
)
from cogvideo_jax.data.token_cache import damage
from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import read_json


def damages(folder: Path) -> Iterator[str]:
    """A sentence for every shard and description that is missing or damaged; reads every record."""
    shards = {shard_number(path) for path in folder.glob("shard-*")} - {None}
    for shard in sorted(shards | set(range(len(shards)))):
        try:
            _check_shard(folder, shard)
        except UserError as error:
            yield str(error)
    try:
        read_json(folder / PLAN, Plan)
        if not (folder / META).exists():
            raise UserError(f"{folder} holds no finished token cache: run `cogvideo tokenize` to the end")
        read_meta(folder)
    except UserError as error:
        yield str(error)


def _check_shard(folder: Path, shard: int) -> None:
    path, notes = shard_path(folder, shard), read_json(shard_notes(folder, shard), ShardNotes)
    if digest_of(path) != notes.digest:
        raise UserError(f"{path} has changed since it was written: run `cogvideo tokenize` again, which makes it anew")
    coarse_grid = None if notes.coarse_tokens is None else math.isqrt(notes.coarse_tokens)
    how = dict(grid=math.isqrt(notes.frame_tokens), coarse_grid=coarse_grid, codes=None)
    with damage(path):
        records = ArrayRecordDataSource(str(path))
        if len(records) != notes.clips:
            raise UserError(f"{path} has {len(records)} records, but its notes say {notes.clips}: tokenize again")
        for row in range(len(records)):
            unpack(records[row], **how, where=f"record {row} of {path}")
