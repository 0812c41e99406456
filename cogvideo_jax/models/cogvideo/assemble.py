"""Assembles trained parts, a text model and a sampling config to one folder for `cogvideo generate --weights`."""

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
from cogvideo_jax.runtime import digests
from cogvideo_jax.runtime.files import read_bytes, whole_file, whole_folder, write_bytes
from cogvideo_jax.runtime.weights import load_weights, save_weights


def assemble(
    parts: dict[str, str | Path],
    *,
    text_model: str | Path,
    sampling_config: str | Path,
    out: str | Path,
    replace: bool = False,
) -> Path:
    """Copies the parts under the names that `WeightsFolder` expects; the folder gets its name when it opens.

    Args:
      parts: path of weights.safetensors by part; all but super-resolution are required.
      replace: take the place of an older folder of weights.

    Raises:
      UserError: a file is missing or has another part, the parts do not fit together, or the folder has files already.
    """
    out, fingerprint = Path(out), load_tokenizer(parts["tokenizer"]).fingerprint
    with whole_folder(out, replace=replace, ours=_is_assembled) as folder:
        for part, source in parts.items():
            _, known = read_part(source, part)
            if part != "tokenizer" and known.tokenizer != fingerprint:
                raise UserError(f"{source} was trained on the codes of another tokenizer than {parts['tokenizer']}")
            save_part(folder, part, *load_weights(source))
        add_text_model(text_model, folder)
        write_sampling_config(folder / FILE, read_sampling_config(Path(sampling_config)))
        WeightsFolder(folder)
        digests.note_digests(folder)
    return out


def _is_assembled(name: str) -> bool:
    return name in (FILE, TEXT_MODEL, digests.FILE) or name.endswith(".safetensors")


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


def add_text_model(source: str | Path, folder: str | Path, *, replace: bool = False) -> Path:
    """Copies a SentencePiece model into a folder of weights. Raises UserError if it is not one, or one is there."""
    model, target = read_bytes(source), Path(folder) / TEXT_MODEL
    TextTokenizer(model, image_codes=1, name=str(source))
    write_bytes(target, model, replace=replace)
    return target


def add_labels(source: str | Path, folder: str | Path, *, replace: bool = False) -> Path:
    """Copies cluster labels, one integer per image code, into a folder of weights.

    Raises:
      UserError: the file has something else, or the folder has labels already.
    """
    labels, target = read_labels(source), Path(folder) / LABELS
    with whole_file(target, replace=replace) as draft, draft.open("wb") as file:
        np.save(file, labels)
    return target
