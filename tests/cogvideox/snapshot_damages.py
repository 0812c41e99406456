"""Ways to damage a snapshot: functions that change one file of a folder."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors.numpy
import sentencepiece

from tests.cogvideox.snapshots import SENTENCES

INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
T5_FILE = "text_encoder/model.safetensors"
SPIECE = "tokenizer/spiece.model"
SCHEDULER = "scheduler/scheduler_config.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
QUERY = "transformer_blocks.0.attn1.to_q.weight"
SHARDS = 9  # of the transformer, see `snapshots.SHARD`
Damage = Callable[[Path], object]


def edit(file: str, *gone: str, **values) -> Damage:
    """Sets keys of a JSON file, and drops others."""

    def damage(folder: Path) -> None:
        there = json.loads((folder / file).read_text())
        kept = {key: value for key, value in (there | values).items() if key not in gone}
        (folder / file).write_text(json.dumps(kept))

    return damage


def config(part: str, *gone: str, **values) -> Damage:
    return edit(f"{part}/config.json", *gone, **values)


def write(file: str, content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        remove(file)(folder)
        (folder / file).write_bytes(content)

    return damage


def remove(file: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / file
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return damage


def replace(file: str, make: Callable[[Path], object]) -> Damage:
    """Puts something else in the place of a file or folder."""

    def damage(folder: Path) -> None:
        remove(file)(folder)
        make(folder / file)

    return damage


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def cut(file: str, to: Callable[[int], int]) -> Damage:
    def damage(folder: Path) -> None:
        os.truncate(folder / file, to((folder / file).stat().st_size))

    return damage


def shard(number: int) -> str:
    """Name of a shard of the transformer."""
    return f"transformer/diffusion_pytorch_model-{number:05d}-of-{SHARDS:05d}.safetensors"


def weight_map(change: Callable[[dict], object]) -> Damage:
    """Changes the map of the transformer's index."""

    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def named(file) -> Damage:
    """The index names another file for a tensor."""
    return weight_map(lambda files: files.update({QUERY: file}))


def tensors(file: str, change: Callable[[dict], object]) -> Damage:
    """Changes the tensors of a file."""

    def damage(folder: Path) -> None:
        there = safetensors.numpy.load_file(folder / file)
        change(there)
        safetensors.numpy.save_file(there, folder / file)

    return damage


def transformer(change: Callable[[dict], object]) -> Damage:
    """Changes the tensors of the transformer, which then lie in one file."""

    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        there: dict = {}
        for path in sorted({folder / "transformer" / file for file in index["weight_map"].values()}):
            there |= safetensors.numpy.load_file(path)
            path.unlink()
        change(there)
        (folder / INDEX).unlink()
        safetensors.numpy.save_file(there, folder / INDEX.removesuffix(".index.json"))

    return damage


def header(file: str, entries: dict | None = None, *, length: int | None = None) -> Damage:
    """A safetensors file with this header and a few bytes of data."""
    text = json.dumps(entries or {}).encode()
    return write(file, (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(64))


def entry(dtype: str = "F32", shape: list | None = None, span: list | None = None) -> dict:
    return {"a": {"dtype": dtype, "shape": [4, 4] if shape is None else shape, "data_offsets": span or [0, 64]}}


def text_model(**settings) -> Damage:
    """A SentencePiece model with other settings than T5's."""

    def damage(folder: Path) -> None:
        usual = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=40, hard_vocab_limit=False, minloglevel=2)
        with open(folder / SPIECE, "wb") as file:
            how = usual | settings
            sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES * 20), model_writer=file, **how)

    return damage


def pickled(file: str, instead: str) -> Damage:
    """A pickle that would call `exit` when it is loaded."""

    class Evil:
        def __reduce__(self):
            return exit, (99,)

    def damage(folder: Path) -> None:
        remove(instead)(folder)
        (folder / file).write_bytes(pickle.dumps(Evil()))

    return damage


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]
