"""All families of models; the only file that names them."""

import importlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Family
from cogvideo_jax.runtime import hub
from cogvideo_jax.runtime.schemas import STRICT, dataclass_schema, read_json, shown

DEFAULT = "cogvideo"
FAMILIES = {  # name -> module with FAMILY
    "cogvideo": "cogvideo_jax.models.cogvideo.family",
    "cogvideox": "cogvideo_jax.models.cogvideox.family",
}
PIPELINE = "pipeline.json"
SNAPSHOT = "model_index.json"  # of diffusers
CLASSES = {"CogVideoX": "cogvideox"}  # how the class of a snapshot's pipeline begins -> family


@dataclass_schema(STRICT | {"extra": "ignore"})
class _Named:
    """What every `pipeline.json` may say; the family itself checks the rest."""

    family: str = DEFAULT


@dataclass_schema(STRICT | {"extra": "ignore"})
class _Snapshot:
    """What every `model_index.json` says."""

    class_name: Annotated[str, Field(alias="_class_name")]


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


def folder_of(weights: str | Path | None) -> Path:
    """The folder that a user means: by default the demo's, else a path or, if there is none, a name on the hub.

    Raises:
      UserError: the text is a name on the hub, and the snapshot cannot be fetched.
    """
    if weights is None:
        return demo_folder()
    if isinstance(weights, str) and not os.path.lexists(weights) and hub.is_name(weights):
        return hub.fetch(weights)
    return Path(weights)


def family_of(folder: str | Path) -> Family:
    """The family whose weights a folder holds; folders from before there were families hold CogVideo.

    Raises:
      UserError: the folder holds no weights, or those of an unknown family.
    """
    pipeline, snapshot = (Path(folder) / name for name in (PIPELINE, SNAPSHOT))
    if os.path.lexists(pipeline):
        return family(read_json(pipeline, _Named).family)
    if not os.path.lexists(snapshot):
        raise UserError(f"{folder} is no folder of weights: it has no {PIPELINE} and no {SNAPSHOT}")
    found = read_json(snapshot, _Snapshot).class_name
    names = [name for start, name in CLASSES.items() if found.startswith(start)]
    if not names:
        raise UserError(
            f"{snapshot} is of {shown(found)}, which is not supported; known are {', '.join(CLASSES)} pipelines"
        )
    return family(names[0])
