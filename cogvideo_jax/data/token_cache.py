"""Reading a token cache: clips by row, every byte of them checked."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from cogvideo_jax.data.cache_format import META, TokenClip, read_meta, shard_path, unpack
from cogvideo_jax.errors import UserError


class TokenCache:
    """Random access to a finished cache: `cache[row]` is a TokenClip."""

    def __init__(self, path: str | Path, fingerprint: str | None = None, *, codes: int | None = None):
        """Opens a cache.

        Args:
          path: folder that `write_token_cache` filled.
          fingerprint: of the tokenizer in use; None takes a cache of any.
          codes: C, of the model that reads the ids; None if there is none.
        Raises:
          UserError: no finished cache there, one of another tokenizer, or one that is damaged.
        """
        self.path, self.codes = Path(path), codes
        if not (self.path / META).exists():
            raise UserError(f"{self.path} holds no finished token cache: run `cogvideo tokenize` to the end")
        self.meta = read_meta(self.path)
        if fingerprint is not None and fingerprint != self.meta.fingerprint:
            made_by = self.meta.fingerprint
            raise UserError(f"{self.path} was made by tokenizer {made_by}, not by {fingerprint}: tokenize again")
        shards = [shard_path(self.path, shard) for shard, clips in enumerate(self.meta.clips_in_shard) if clips]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise UserError(f"{self.path} lacks {missing[0]} and {len(missing) - 1} more: tokenize again")
        self._shards = shards
        self._ends = np.cumsum([clips for clips in self.meta.clips_in_shard if clips])
        self._records = self._open(shards)
        if len(self._records) != len(self):
            raise UserError(
                f"{self.path} has {len(self._records)} records, but {META} says {len(self)}: tokenize again"
            )

    def _open(self, shards: list[Path]) -> ArrayRecordDataSource:
        try:
            return ArrayRecordDataSource([str(shard) for shard in shards])
        except (RuntimeError, OSError):
            for shard in shards:
                with damage(shard):
                    ArrayRecordDataSource(str(shard))
            raise

    @property
    def fingerprint(self) -> str:
        """The tokenizer that made it."""
        return self.meta.fingerprint

    @property
    def grid(self) -> int:
        """h = w of the token grid."""
        return self.meta.grid

    @property
    def coarse_grid(self) -> int | None:
        """h = w of the smaller frames' token grid; None in a cache without them."""
        return self.meta.coarse_grid

    def __len__(self) -> int:
        return self.meta.clips

    def __getitem__(self, row: int) -> TokenClip:
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard = self._shards[int(np.searchsorted(self._ends, row, side="right"))]
        with damage(shard):
            record = self._records[row]
        how = dict(grid=self.grid, coarse_grid=self.coarse_grid, top_fps=self.meta.top_fps, codes=self.codes)
        return unpack(record, **how, where=f"record {row} of {self.path}, in {shard.name},")


@contextlib.contextmanager
def damage(shard: Path) -> Iterator[None]:
    """Turns what ArrayRecord says of a damaged file into a sentence."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        said = str(error).partition(";")[0] or "it is cut short"
        raise UserError(
            f"{shard} is damaged ({said[:200]}): run `cogvideo tokenize` again, which makes it anew"
        ) from error
