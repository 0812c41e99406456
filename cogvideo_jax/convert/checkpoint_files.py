"""Opens an official checkpoint of any format as names, shapes and a function that reads one tensor.

    a folder      latest, model_config.json, <latest>/mp_rank_00_model_states.pt (mp_rank_01, ... of a parallel save)
    a zip         of such a folder, as it is downloaded; its weights are unpacked into a scratch folder
    a .pt file    of torch, such as icetk's ice_image.pt
    safetensors   with the official names

No file is loaded whole, and no code in a file is run.
"""

import contextlib
import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from cogvideo_jax.convert.torch_files import SETTINGS, TorchFile, is_old_format
from cogvideo_jax.convert.zip_members import members
from cogvideo_jax.errors import ConversionError, UserError, conversion_errors
from cogvideo_jax.runtime.files import open_input, read_bytes, require_regular_file, require_space, whole_file
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf
from cogvideo_jax.runtime.schemas import parse_json

LATEST = "latest"
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
      UserError: it does not exist, is damaged or incomplete, or has an unknown format.
    """
    source = Path(source)
    if os.path.isdir(source):
        return _open_folder(source, source, merge_ranks)
    require_regular_file(source)
    if not zipfile.is_zipfile(source):
        return _open_torch(source) if is_old_format(source) else _open_safetensors(source)
    with _opened_zip(source) as archive:
        found = members(archive, str(source))
        if not any(PurePosixPath(name).name == "data.pkl" for name in found):
            return _open_folder(_unpack(archive, found, scratch, source), source, merge_ranks)
    return _open_torch(source)


@contextlib.contextmanager
def _opened_zip(source: Path) -> Iterator[zipfile.ZipFile]:
    with open_input(source) as file:
        with _damages_of(source):
            archive = zipfile.ZipFile(file)
        with archive:
            yield archive


def _damages_of(source: Path) -> contextlib.AbstractContextManager[None]:
    return conversion_errors(f"{source} is a damaged zip file")


def _open_torch(source: Path) -> Checkpoint:
    file = TorchFile(source, label=str(source))
    return Checkpoint(source, file.leaves, file.read, _parsed(file.settings or "{}", source))


def _open_safetensors(source: Path) -> Checkpoint:
    try:
        leaves, metadata = read_header(source)
    except UserError as error:
        raise ConversionError(
            f"{source} is damaged or not a checkpoint; expected a SAT folder or its zip, a .pt or a safetensors file, "
            "a text.model or labels that end in .npy"
        ) from error
    if "description" in metadata:
        raise ConversionError(
            f"{source} already has this project's names; use --to-official to give it the official ones"
        )
    settings = _parsed(metadata.get(SETTINGS, "{}"), source)
    return Checkpoint(source, leaves, lambda name: read_leaf(source, name), settings)


def _open_folder(folder: Path, source: Path, merge_ranks: MergeRanks) -> Checkpoint:
    """Opens a folder with `latest`, or one with the rank files themselves."""
    latest = folder / LATEST
    place = folder / _latest_name(read_bytes(latest, limit=SMALL), source) if os.path.lexists(latest) else folder
    files = sorted(path for path in place.glob("mp_rank_*.pt") if RANK_FILE.fullmatch(path.name))
    ranks = [int(RANK_FILE.fullmatch(path.name)[1]) for path in files]
    if not ranks:
        raise ConversionError(f"{source} is not a SAT checkpoint: it has no {_missing(folder, place)}")
    if ranks != list(range(len(ranks))):
        raise ConversionError(f"{source} is incomplete: it has only the model-parallel files {ranks}")
    for path in files:
        require_regular_file(path)
    opened = [TorchFile(path, label=f"{path.name} of {source}") for path in files]
    leaves, read = merge_ranks([(file.leaves, file.read) for file in opened], source)
    return Checkpoint(source, leaves, read, _read_settings([folder, folder.parent], source))


def _missing(folder: Path, place: Path) -> str:
    """What a folder without rank files lacks, and what to pass in its place."""
    if place != folder:
        return f"{place.relative_to(folder) / RANK_0}, which its file '{LATEST}' names"
    deeper = [path.parent for name in (LATEST, RANK_0) for path in folder.glob(f"*/{name}")]
    files = [path for path in folder.glob("*") if path.suffix in (".zip", ".pt", ".safetensors")]
    instead = f"; pass {min(deeper or files)}" if deeper or files else ""
    return f"file '{LATEST}', which names the folder of the weights, and no {RANK_0}{instead}"


def _latest_name(content: bytes, source: Path) -> str:
    """Name of the folder in `latest`; refuses one outside the checkpoint."""
    with conversion_errors(f"{source} is damaged: its file 'latest' is not text"):
        name = content.decode().strip()
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ConversionError(f"{source} is damaged: its file 'latest' should name a folder, not {name[:40]!r}")
    return name


def _read_settings(folders: list[Path], source: Path) -> dict:
    """The first `model_config.json` of these folders, or none."""
    found = [folder / SETTINGS for folder in folders if os.path.lexists(folder / SETTINGS)]
    return _parsed(read_bytes(found[0], limit=SMALL), source) if found else {}


def _parsed(settings: bytes | str, source: Path) -> dict:
    return parse_json(settings, dict, where=f"{SETTINGS} of {source}")


def _unpack(archive: zipfile.ZipFile, found: dict[str, zipfile.ZipInfo], scratch: Path, source: Path) -> Path:
    """Unpacks the one checkpoint of a zip; other members stay packed."""
    for member in archive.infolist():
        name = member.filename
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            raise ConversionError(f"{source} is refused: its member {name[:80]!r} would be written outside the target")
    roots = [PurePosixPath(name).parent for name in found if PurePosixPath(name).name == LATEST]
    if len(roots) != 1:
        raise ConversionError(f"{source} should hold one SAT checkpoint with a file '{LATEST}', not {len(roots)}")
    with _damages_of(source), archive.open(found[str(roots[0] / LATEST)]) as file:
        place = roots[0] / _latest_name(file.read(SMALL), source)
    chosen = {name: found[name] for name in (str(roots[0] / LATEST), str(roots[0] / SETTINGS)) if name in found}
    chosen |= {name: member for name, member in found.items() if PurePosixPath(name).parent == place}
    require_space(scratch, sum(member.file_size for member in chosen.values()), f"unpacking {source}")
    for name, member in chosen.items():
        out = scratch / PurePosixPath(name).relative_to(roots[0])
        with whole_file(out) as draft, draft.open("wb") as file:
            for chunk in _content(archive, member, source):
                file.write(chunk)
    return scratch


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Path) -> Iterator[bytes]:
    with _damages_of(source), archive.open(member) as packed:
        while chunk := packed.read(SMALL):
            yield chunk
