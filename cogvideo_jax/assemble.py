"""Four trained parts, a text model and a recipe -> one folder that `cogvideo generate --weights` takes."""

import shutil
from pathlib import Path

from cogvideo_jax.runtime.weights import load_weights, save_weights
from cogvideo_jax.text_to_video import PARTS, TextToVideo, read_recipe, write_recipe
from cogvideo_jax.tokens.vq_tokenizer import load_tokenizer


def assemble(parts: dict[str, str | Path], *, text_model: str | Path, recipe: str | Path, out: str | Path) -> Path:
    """Copies the parts under the names that `TextToVideo.load` expects, and loads the result once.

    Args:
      parts: part -> its weights.safetensors.

    Raises:
      ValueError: a file is missing or holds another part, or the parts do not fit together.
    """
    out, fingerprint = Path(out), load_tokenizer(parts["tokenizer"]).fingerprint
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        tree, description = load_weights(parts[part])
        if description.get("kind") != part:
            raise ValueError(f"{parts[part]} holds {description.get('kind')!r}, not {part!r}")
        if part != "tokenizer" and description.get("tokenizer") != fingerprint:
            raise ValueError(f"{parts[part]} was trained on the codes of another tokenizer than {parts['tokenizer']}")
        save_weights(out / f"{part}.safetensors", tree, description)
    shutil.copyfile(text_model, out / "text.model")
    write_recipe(out / "pipeline.json", read_recipe(Path(recipe)))
    TextToVideo.load(out)
    return out
