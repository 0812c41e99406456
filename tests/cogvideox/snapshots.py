"""Tiny diffusers snapshots, made of the goldens' weights: the files are those that the hub has."""

import functools
import io
import json
from pathlib import Path

import numpy as np
import safetensors.numpy
import sentencepiece

from tests.cogvideox.goldens import load

SENTENCES = ["a red ball rolls to the right", "a blue cat runs over the grass", "two dogs play in the snow"]
CLASSES = {"i2v": "CogVideoXImageToVideoPipeline"}
SHARD = 60_000  # bytes; the transformer is written in shards


def write_snapshot(folder: Path, golden: str = "x_pipeline_t2v", *, shards: bool = True) -> Path:
    """Writes the weights of a golden pipeline as a snapshot."""
    config, arrays = load(golden)
    kind = next((name for key, name in CLASSES.items() if key in golden), "CogVideoXPipeline")
    write_json(folder / "model_index.json", {"_class_name": kind, "_diffusers_version": "0.30.3"})
    shift = 1.0 if config["transformer"]["use_rotary_positional_embeddings"] else 3.0
    scheduler = {"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": shift} | config["scheduler"]
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    for part in ("transformer", "vae", "text_encoder"):
        write_json(folder / part / "config.json", {"_class_name": part} | config[part])
        prefix = f"param:{part}."
        tensors = {
            name.removeprefix(prefix): np.ascontiguousarray(array)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        write_tensors(folder / part, stem, tensors, shards=shards and part == "transformer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "spiece.model").write_bytes(text_model(config["text_encoder"]["vocab_size"]))
    return folder


def write_tensors(folder: Path, stem: str, tensors: dict[str, np.ndarray], *, shards: bool) -> None:
    """One file, or shards with their index."""
    if not shards:
        safetensors.numpy.save_file(tensors, folder / f"{stem}.safetensors", {"format": "pt"})
        return
    parts: list[dict[str, np.ndarray]] = [{}]
    for name, tensor in tensors.items():
        if sum(x.nbytes for x in parts[-1].values()) > SHARD:
            parts.append({})
        parts[-1][name] = tensor
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors"
        safetensors.numpy.save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(x.nbytes for x in tensors.values())
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@functools.cache
def text_model(pieces: int) -> bytes:
    """A SentencePiece model with the ids of T5."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=min(pieces, 40),
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
