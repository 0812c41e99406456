"""Opens an official checkpoint of any format as names, shapes and a function that reads one tensor.

    a folder      latest, model_config.json, <latest>/mp_rank_00_model_states.pt (mp_rank_01, ... of a parallel save)
    a zip         of such a folder, as it is downloaded; its weights are unpacked into a scratch folder
    a .pt file    of torch, such as icetk's ice_image.pt
    safetensors   with the official names

No file is loaded whole, and no code in a file is run.
"""

import dataclasses
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from cogvideo_jax.convert.torch_files import TorchFile, is_old_format
from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.runtime.files import require_regular_file
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf

LATEST, SETTINGS = "latest", "model_config.json"
RANK_FILE = re.compile(r"mp_rank_(\d\d)_model_states\.pt")
RANK_0 = "mp_rank_00_model_states.pt"
SMALL = 1 << 20  # bytes; size limit of a checkpoint's text files

Rank = tuple[dict[str, Leaf], Callable[[str], np.ndarray]]  # leaves of one file, and their reader
MergeRanks = Callable[[list[Rank], Path], Rank]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
      source: as the user named it.
      leaves: official name -> type and shape.
      read: official name -> array, which may be a view and must not be written to.
      settings: `model_config.json`, or empty.
    """

    source: Path
    leaves: dict[str, Leaf]
    read: Callable[[str], np.ndarray]
    settings: dict


def open_checkpoint(source: str | Path, scratch: Path, *, merge_ranks: MergeRanks) -> Checkpoint:
    """Opens a checkpoint.

    Args:
      merge_ranks: joins the files of a model-parallel save, according to the family's split of its matrices.
      scratch: folder for an unpacked zip; the caller removes it after the last read.

    Raises:
      ConversionError: it does not exist, is damaged or incomplete, or has an unknown format.
    """
    source = Path(source)
    if not source.exists():
        raise ConversionError(f"{source} does not exist")
    if source.is_dir():
        return _open_folder(source, source, merge_ranks)
    require_regular_file(source)
    if zipfile.is_zipfile(source):
        with conversion_errors(f"{source} is a damaged zip file"), zipfile.ZipFile(source) as archive:
            if not any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist()):
                return _open_folder(_unpack(archive, scratch, source), source, merge_ranks)
    elif not is_old_format(source):
        return _open_safetensors(source)
    file = TorchFile(source, label=str(source))
    return Checkpoint(source, file.leaves, file.read, {})


def _open_safetensors(source: Path) -> Checkpoint:
    with conversion_errors(
        f"{source} is damaged or not a checkpoint; expected a SAT folder or its zip, a .pt or a safetensors file"
    ):
        leaves, metadata = read_header(source)
        settings = json.loads(metadata.get(SETTINGS, "{}"))
    if "description" in metadata:
        raise ConversionError(
            f"{source} already has this project's names; use --to-official to give it the official ones"
        )
    return Checkpoint(source, leaves, lambda name: read_leaf(source, name), _checked(settings, source))


def _open_folder(folder: Path, source: Path, merge_ranks: MergeRanks) -> Checkpoint:
    """Opens a folder with `latest`, or one with the rank files themselves."""
    latest = folder / LATEST
    require_regular_file(latest)
    place = folder / _latest_name(_beginning(latest), source) if latest.is_file() else folder
    files = sorted(path for path in place.glob("mp_rank_*.pt") if RANK_FILE.fullmatch(path.name))
    ranks = [int(RANK_FILE.fullmatch(path.name)[1]) for path in files]
    if not ranks:
        raise ConversionError(f"{source} is not a SAT checkpoint: it has no {place.relative_to(folder) / RANK_0}")
    if ranks != list(range(len(ranks))):
        raise ConversionError(f"{source} is incomplete: it has only the model-parallel files {ranks}")
    for path in files:
        require_regular_file(path)
    opened = [TorchFile(path, label=f"{path.name} of {source}") for path in files]
    leaves, read = merge_ranks([(file.leaves, file.read) for file in opened], source)
    return Checkpoint(source, leaves, read, _read_settings([folder, folder.parent], source))


def _latest_name(content: bytes, source: Path) -> str:
    """Name of the folder in `latest`; refuses one outside the checkpoint."""
    with conversion_errors(f"{source} is damaged: its file 'latest' is not text"):
        name = content.decode().strip()
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ConversionError(f"{source} is damaged: its file 'latest' should name a folder, not {name[:40]!r}")
    return name


def _read_settings(folders: list[Path], source: Path) -> dict:
    found = [folder / SETTINGS for folder in folders if (folder / SETTINGS).is_file()]
    for path in folders:
        require_regular_file(path / SETTINGS)
    if not found:
        return {}
    with conversion_errors(f"{source} is damaged: its {SETTINGS} is not JSON"):
        settings = json.loads(_beginning(found[0]))
    return _checked(settings, source)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SMALL)


def _checked(settings: object, source: Path) -> dict:
    if not isinstance(settings, dict):
        raise ConversionError(f"{source} is damaged: its {SETTINGS} is not a table of settings")
    return settings


def _unpack(archive: zipfile.ZipFile, scratch: Path, source: Path) -> Path:
    """Unpacks the one checkpoint of a zip; other members stay packed."""
    for name in archive.namelist():
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            raise ConversionError(f"{source} is refused: its member {name[:80]!r} would be written outside the target")
    roots = [PurePosixPath(name).parent for name in archive.namelist() if PurePosixPath(name).name == LATEST]
    if len(roots) != 1:
        raise ConversionError(f"{source} should hold one SAT checkpoint with a file 'latest', not {len(roots)}")
    with archive.open(str(roots[0] / LATEST)) as file:
        place = roots[0] / _latest_name(file.read(SMALL), source)
    wanted = [roots[0] / LATEST, roots[0] / SETTINGS]
    wanted += [PurePosixPath(name) for name in archive.namelist() if PurePosixPath(name).parent == place]
    members = [archive.getinfo(str(name)) for name in wanted if str(name) in archive.namelist()]
    members = [member for member in members if not member.is_dir()]
    check_space(scratch, sum(member.file_size for member in members), f"unpacking {source}")
    for member in members:
        out = scratch / PurePosixPath(member.filename).relative_to(roots[0])
        out.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as packed, out.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    return scratch


def check_space(folder: Path, size: int, purpose: str) -> None:
    """Raises ConversionError if a folder's disk has less than `size` bytes free; the folder need not exist yet."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise ConversionError(f"{purpose} needs {size / 1e9:.1f} GB, but {existing} has {free / 1e9:.1f} GB free")
