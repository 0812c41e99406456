"""Official checkpoints made from golden files, in every form that `cogvideo convert` takes."""

import json
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.parity.goldens import FOLDER, load, parameters

Arrays = dict[str, np.ndarray]
SIZES = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length", "num_image_tokens")
FORMS = ("folder", "zip", "stored zip", "safetensors")
RANK = "6000/mp_rank_00_model_states.pt"  # in the folders that are made here
OPTIONAL = (
    "special_ids",
    "layout",
    "cogvideo_stage",
    "window_size",
    "additional_seqlen",
    "kernel_size",
    "kernel_size2",
)


class Official(NamedTuple):
    """Weights of a golden file, their model_config.json, and their part."""

    part: str
    arrays: Arrays
    settings: dict


def official(stem: str, prefix: str = "param:", **changes) -> Official:
    """The weights of one golden file."""
    golden, arrays = load(FOLDER / f"{stem}.npz")
    if golden["kind"] == "icetk_hvqvae":
        return Official("tokenizer", parameters(arrays), {})
    settings = {key: golden[key] for key in (*SIZES, *OPTIONAL) if key in golden} | changes
    part = {"DsrModel": "superres", "ItersrModel": "itersr"}.get(golden["kind"])
    if "cogvideo_stage" in settings:
        part = f"stage{settings['cogvideo_stage']}"
    return Official(part or "superres", parameters(arrays, prefix), settings)


def goldens() -> list:
    """Every checkpoint that golden files hold."""
    stems = sorted(path.stem for path in FOLDER.glob("[abce]_*.npz"))
    found = [pytest.param(stem, {}, id=stem) for stem in stems]
    for stage in (1, 2):
        changes = dict(prefix=f"param:stage{stage}.", cogvideo_stage=stage, window_size=-1 if stage == 1 else 10)
        found.append(pytest.param("f_pipeline_greedy", changes, id=f"f_stage{stage}"))
    direct = dict(prefix="param:dsr.", layout=[96, 496, 4096])
    return [*found, pytest.param("f_pipeline_greedy", direct, id="f_dsr")]


def tensors(arrays: Arrays) -> OrderedDict:
    """Arrays as a state dict."""
    return OrderedDict((name, torch.from_numpy(np.array(array))) for name, array in arrays.items())


def write_sat(folder: Path, ranks: list[Arrays], settings: dict, *, beside: dict | None = None) -> Path:
    """Writes a SAT folder; `beside` has the other contents of a training checkpoint."""
    place = folder / "6000"
    place.mkdir(parents=True)
    (folder / "latest").write_text("6000\n")
    (folder / "model_config.json").write_text(json.dumps(settings))
    for rank, arrays in enumerate(ranks):
        saved = {"module": tensors(arrays), **(beside or {})}
        torch.save(saved, place / f"mp_rank_{rank:02d}_model_states.pt")
    return folder


def write_zip(path: Path, folder: Path, *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A folder as it would be downloaded."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
    return path


def write_source(form: str, folder: Path, made: Official) -> Path:
    """A checkpoint in one of the forms "folder", "zip", "stored zip", "safetensors", "pt"."""
    if form == "safetensors":
        metadata = {"model_config.json": json.dumps(made.settings)}
        arrays = {name: np.ascontiguousarray(array) for name, array in made.arrays.items()}
        safetensors.numpy.save_file(arrays, folder / "official.safetensors", metadata=metadata)
        return folder / "official.safetensors"
    if form == "pt":
        torch.save({"module": tensors(made.arrays)}, folder / "official.pt")
        return folder / "official.pt"
    sat = write_sat(folder / "official", [made.arrays], made.settings)
    if form == "folder":
        return sat
    compression = zipfile.ZIP_STORED if form == "stored zip" else zipfile.ZIP_DEFLATED
    return write_zip(folder / "official.zip", sat, compression=compression)


def read_sat(folder: Path) -> Arrays:
    """The weights of a SAT folder, by torch."""
    [file] = folder.glob("*/mp_rank_00_model_states.pt")
    saved = torch.load(file, weights_only=True)
    return {name: tensor.numpy() for name, tensor in saved["module"].items()}


def assert_same_bits(ours: Arrays, theirs: Arrays) -> None:
    """Same names, types, shapes and bytes."""
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype and ours[name].shape == array.shape, name
        assert ours[name].tobytes() == array.tobytes(), name
