"""Assembles trained parts, a text model and a sampling config to one folder for `cogvideo generate --weights`."""

import shutil
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.descriptions import OWN_BASE, read_part
from cogvideo_jax.models.cogvideo.sampling_config import FILE, read_sampling_config, write_sampling_config
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.transformer.transformer import is_attention_plus
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.models.cogvideo.weights import LABELS, TEXT_MODEL, WeightsFolder, read_labels
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.weights import load_weights, save_weights


def assemble(
    parts: dict[str, str | Path], *, text_model: str | Path, sampling_config: str | Path, out: str | Path
) -> Path:
    """Copies the parts under the names that `WeightsFolder` expects, and opens the result once.

    Args:
      parts: path of weights.safetensors by part; all but super-resolution are required.

    Raises:
      UserError: a file is missing or has another part, or the parts do not fit together.
    """
    out, fingerprint = Path(out), load_tokenizer(parts["tokenizer"]).fingerprint
    out.mkdir(parents=True, exist_ok=True)
    for part, source in parts.items():
        _, known = read_part(source, part)
        if part != "tokenizer" and known.tokenizer != fingerprint:
            raise UserError(f"{source} was trained on the codes of another tokenizer than {parts['tokenizer']}")
        save_part(out, part, *load_weights(source))
    add_text_model(text_model, out)
    write_sampling_config(out / FILE, read_sampling_config(Path(sampling_config)))
    WeightsFolder(out)
    return out


def save_part(out: Path, part: str, tree: PyTree, description: dict) -> None:
    """Writes one file, or two if the part also trained its base, which then becomes its own base."""
    flat = flatten_dict(tree)
    inherited = {path: leaf for path, leaf in flat.items() if not is_attention_plus(path)}
    if part in ("base", "tokenizer") or not inherited:
        save_weights(out / f"{part}.safetensors", tree, description)
        return
    added = {path: leaf for path, leaf in flat.items() if is_attention_plus(path)}
    own = description | {"kind": part + OWN_BASE}
    save_weights(out / f"{part}{OWN_BASE}.safetensors", unflatten_dict(inherited), own)
    save_weights(out / f"{part}.safetensors", unflatten_dict(added), description | {"own_base": True})


def add_text_model(source: str | Path, folder: str | Path) -> Path:
    """Copies a SentencePiece model into a folder of weights. Raises UserError if it is not one."""
    TextTokenizer.from_file(source, image_codes=1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, Path(folder) / TEXT_MODEL))


def add_labels(source: str | Path, folder: str | Path) -> Path:
    """Copies cluster labels, one integer per image code, into a folder of weights.

    Raises:
      UserError: the file has something else.
    """
    labels = read_labels(source)
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.save(Path(folder) / LABELS, labels)
    return Path(folder) / LABELS
