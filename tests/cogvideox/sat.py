"""Checkpoints of SAT as torch files, made of the goldens' weights."""

import functools
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

from cogvideo_jax.convert.shards import Shards
from cogvideo_jax.models.cogvideox.convert.names import (
    SAT_PREFIX,
    inverse,
    rows,
    sources,
    transformer_source,
    vae_source,
)
from tests.cogvideox.goldens import load

Arrays = dict[str, np.ndarray]
RANK_FILE = "1000/mp_rank_00_model_states.pt"
TEXT_TO_VIDEO, TWO_B = "x_pipeline_t2v", "x_pipeline_t2v_2b"
CONVERT = ("convert", "--family", "cogvideox")
LORA_RANK = 3
CONVERTED, ARRAYS = load("x_convert")


def sat_arrays(part: str) -> Arrays:
    """Tensors of a golden checkpoint under SAT's names."""
    return _starting(ARRAYS, f"{part}.sat:")


def diffusers_arrays(part: str) -> Arrays:
    """What the authors' script makes of them: the tensors that it cuts, and those that it renames."""
    renamed = CONVERTED["report"][part]["one_to_one"]
    return _starting(ARRAYS, f"{part}.diffusers:") | {
        name: ARRAYS[f"{part}.sat:{other}"] for name, other in renamed.items()
    }


def pipeline_arrays(golden: str, part: str) -> Arrays:
    """Tensors of a golden pipeline's part under the names of diffusers, in the order of a state dict."""
    return _starting(load(golden)[1], f"param:{part}.")


def as_sat(part: str, tensors: Arrays) -> Arrays:
    """The same weights under SAT's names."""
    levels = len({name.split(".")[2] for name in tensors if name.startswith("decoder.up_blocks.")})
    source = transformer_source if part == "transformer" else functools.partial(vae_source, levels=levels)
    prefix = SAT_PREFIX if part == "transformer" else ""
    made = inverse(sources(tensors, source))
    return {prefix + name: np.concatenate([rows(tensors[one.name], one) for one in of]) for name, of in made.items()}


def save(path: Path, arrays: Arrays, *, key: str | None) -> Path:
    """A file of torch with the tensors under a key, or as they are."""
    tensors = OrderedDict((name, _tensor(array)) for name, array in arrays.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: tensors} if key else tensors, path)
    return path


def write_transformer(folder: Path, arrays: Arrays) -> Path:
    """A SAT folder."""
    save(folder / RANK_FILE, arrays, key="module")
    (folder / "latest").write_text("1000\n")
    return folder


def write_json(path: Path, values: dict) -> Path:
    """A config."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def read_json(path: Path) -> dict:
    """A config that was written."""
    return json.loads(path.read_text())


def sat_transformer(folder: Path, golden: str = TEXT_TO_VIDEO, changed: dict | None = None) -> Path:
    """A pipeline's transformer as a SAT folder, with other tensors.

    Args:
      changed: name without the prefix -> another tensor, a function of the one that is there, or None to leave it out.
    """
    arrays = as_sat("transformer", pipeline_arrays(golden, "transformer"))
    for name, change in (changed or {}).items():
        arrays[SAT_PREFIX + name] = change(arrays[SAT_PREFIX + name]) if callable(change) else change
    return write_transformer(folder, {name: array for name, array in arrays.items() if array is not None})


def t5_folder(folder: Path, snapshot: Path) -> Path:
    """T5 and its tokenizer in one folder, as the guide for SAT has it."""
    shutil.copytree(snapshot / "text_encoder", folder)
    return shutil.copytree(snapshot / "tokenizer", folder, dirs_exist_ok=True)


def files_of(folder: Path) -> set[str]:
    """Names of all files, with their folders."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def sat_lora(golden: str = TEXT_TO_VIDEO, rank: int = LORA_RANK) -> dict[str, np.ndarray]:
    """A LoRA of SAT for every matrix of attention."""
    config, rng = load(golden)[0]["transformer"], np.random.default_rng(0)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    kinds = [*(f"query_key_value.matrix_{{}}.{i}" for i in range(3)), "dense.matrix_{}.0"]
    return {
        f"{SAT_PREFIX}transformer.layers.{layer}.attention.{kind.format(factor)}": rng.normal(
            size=(rank, width) if factor == "A" else (width, rank)
        ).astype(np.float32)
        for layer in range(config["num_layers"])
        for kind in kinds
        for factor in "AB"
    }


def tensors_of(folder: Path) -> Arrays:
    """All tensors of a snapshot's part."""
    part = Shards(folder)
    return {name: part.read(name) for name in part.leaves}


def assert_same_bits(ours: Arrays, theirs: Arrays) -> None:
    """Same names, types, shapes and bytes."""
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape), name
        assert ours[name].tobytes() == array.tobytes(), name


def _starting(arrays: Arrays, start: str) -> Arrays:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _tensor(array: np.ndarray) -> torch.Tensor:
    array = np.array(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
