"""All families of models; the only file that names them."""

import importlib
from pathlib import Path

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Family
from cogvideo_jax.runtime.schemas import STRICT, dataclass_schema, read_json

DEFAULT = "cogvideo"
FAMILIES = {"cogvideo": "cogvideo_jax.models.cogvideo.family"}  # name -> module with FAMILY
PIPELINE = "pipeline.json"


@dataclass_schema(STRICT | {"extra": "ignore"})
class _Named:
    """What every `pipeline.json` may say; the family itself checks the rest."""

    family: str = DEFAULT


def family(name: str) -> Family:
    """A family by its name. Raises UserError for one that does not exist."""
    if name not in FAMILIES:
        raise UserError(f"there is no model family {name!r}; known are {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[name]).FAMILY


def demo_folder() -> Path:
    """The weights that come with the package."""
    folder = family(DEFAULT).demo
    assert folder is not None, f"{DEFAULT} ships its demo"
    return folder


def family_of(folder: str | Path) -> Family:
    """The family whose weights a folder holds; folders from before there were families hold CogVideo.

    Raises:
      UserError: the folder holds no weights, or those of an unknown family.
    """
    path = Path(folder) / PIPELINE
    if not path.exists():
        raise UserError(f"{folder} is no folder of weights: it has no {PIPELINE}")
    return family(read_json(path, _Named).family)
