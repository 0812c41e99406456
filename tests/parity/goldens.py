"""Golden files: numbers of the released torch code on small random weights, float32 on CPU.

`COGVIDEO_GOLDEN` names another folder of the same format; every size comes from a file's own config.
"""

import json
import os
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("COGVIDEO_GOLDEN", Path(__file__).parent / "golden"))


def golden_files(pattern: str) -> list[Path]:
    """Files of the golden folder, at least one."""
    files = sorted(FOLDER.glob(pattern))
    if not files:
        raise FileNotFoundError(f"no golden file {pattern} in {FOLDER}")
    return files


def load(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The config and all arrays of one file."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(str(arrays.pop("config"))), arrays


def parameters(arrays: dict[str, np.ndarray], prefix: str = "param:") -> dict[str, np.ndarray]:
    """The official state dict of a file."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
