"""Random damage to good checkpoints: a refusal, or the very weights; COGVIDEO_FUZZ says how many."""

import os
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.models.cogvideo.sampling_config import FILE
from tests.cogvideo.convert import tiny
from tests.cogvideo.convert.checkpoints import RANK, tensors, torch, write_source

COUNT = int(os.environ.get("COGVIDEO_FUZZ", "40"))
LONGEST = 10  # seconds of one conversion
FORMS = ("folder", "zip", "stored zip", "pt", "old pt", "safetensors")
WITHOUT_CHECKSUMS = ("old pt", "safetensors")  # a flip in their weights gives other weights


def good(form: str, folder: Path) -> Path:
    """A checkpoint; the files of torch lie in a folder, which tells their sizes."""
    if form not in ("pt", "old pt"):
        return write_source(form, folder, tiny.stage())
    source = write_source("folder", folder, tiny.stage())
    if form == "old pt":
        torch.save({"module": tensors(tiny.stage().arrays)}, source / RANK, _use_new_zipfile_serialization=False)
    return source


def flipped(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def flipped_at_an_end(rng: np.random.Generator, data: bytes) -> bytes:
    """Where headers and directories lie."""
    size = min(len(data), 3000)
    if rng.integers(2):
        return flipped(rng, data[:size]) + data[size:]
    return data[:-size] + flipped(rng, data[-size:])


def cut(rng: np.random.Generator, data: bytes) -> bytes:
    begin, end = sorted(rng.integers(0, len(data), 2))
    return [data[:begin], data[end:], data[:begin] + data[end:], data[:begin] + data[begin:end] * 2][rng.integers(4)]


def filled(rng: np.random.Generator, data: bytes) -> bytes:
    begin, size = rng.integers(len(data)), rng.integers(1, 2000)
    return data[:begin] + [bytes(size), b"\xff" * size, rng.bytes(size)][rng.integers(3)] + data[begin + size :]


BYTES: dict[str, Callable] = {f.__name__: f for f in (flipped, flipped_at_an_end, cut, filled)}


def swapped(rng: np.random.Generator, path: Path) -> None:
    """Exchanges the contents of two members of a zip; what it makes is a sound zip of other contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    one, other = rng.choice(sorted(contents), 2, replace=False)
    if len(contents[one]) == len(contents[other]):  # no reader can tell these from right ones
        contents[other] = contents[other][:-1]
    contents[one], contents[other] = contents[other], contents[one]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def damaged(rng: np.random.Generator, form: str, source: Path) -> str:
    """Damages a checkpoint and returns how."""
    files = [source] if source.is_file() else [source / RANK] * 3 + [source / "latest", source / "model_config.json"]
    path = files[rng.integers(len(files))]
    if zipfile.is_zipfile(path) and rng.integers(5) == 0:
        swapped(rng, path)
        return "swapped"
    damage = rng.choice(sorted(BYTES))
    path.write_bytes(BYTES[damage](rng, path.read_bytes()))
    told = form in WITHOUT_CHECKSUMS or path.name == "model_config.json"
    return f"{damage} where nothing tells" if told else str(damage)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_random_damage_gives_a_refusal_or_the_very_weights(tmp_path):
    convert(write_source("folder", tmp_path, tiny.stage()), tmp_path / "expected")
    expected, outcomes, longest = contents(tmp_path / "expected"), Counter(), 0.0
    for number in range(COUNT):
        rng, folder = np.random.default_rng([17, number]), tmp_path / f"damaged{number}"
        folder.mkdir()
        form = FORMS[number % len(FORMS)]
        source = good(form, folder)
        damage = damaged(rng, form, source)
        before, begun = {path: path.stat() for path in tmp_path.rglob("*")}, time.monotonic()
        try:
            convert(source, folder / "ours")
            outcome = "the same" if contents(folder / "ours") == expected else "others"
            assert outcome == "the same" or damage.endswith("nothing tells"), (number, form, damage)
            assert (folder / "ours" / FILE).exists()
            shutil.rmtree(folder / "ours")
        except UserError as error:
            outcome = "refused"
            assert len(str(error)) < 3000 and str(error).isprintable() and str(folder) in str(error), (number, error)
        longest = max(longest, time.monotonic() - begun)
        assert longest < LONGEST, (number, form, damage)
        after = {path: path.stat() for path in tmp_path.rglob("*")}
        assert after.keys() == before.keys(), (number, after.keys() ^ before.keys())
        assert all(after[path].st_mtime_ns == before[path].st_mtime_ns for path in before if path.is_file()), number
        outcomes[outcome] += 1
        shutil.rmtree(folder)
    print(f"{COUNT} damaged checkpoints, the longest {longest:.1f} s:", dict(outcomes))
