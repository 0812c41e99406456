"""A snapshot, through our parameters, -> a new snapshot that diffusers loads: every bit and every type is kept.

LoRAs may be merged on the way, exactly as sampling merges them. One tensor is in memory at a time, and an interrupted
conversion leaves nothing.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogvideo_jax.convert.workspace import require_folder_name
from cogvideo_jax.interface import Lora
from cogvideo_jax.models.cogvideox.convert.snapshot_files import (
    CLASSES,
    CONFIG,
    DDIM,
    SCHEDULER,
    SCHEDULER_CONFIG,
    TOKENIZER,
    Part,
    index_file,
    json_bytes,
    part_of,
    write_parts,
)
from cogvideo_jax.models.cogvideox.convert.t5_files import config_file, tokenizer_part
from cogvideo_jax.models.cogvideox.snapshot import INDEX, TEXT, TRANSFORMER, VAE, Snapshot, changed_by
from cogvideo_jax.runtime.files import require_space, whole_folder, write_bytes
from cogvideo_jax.runtime.schemas import read_json

SCHEDULERS = (DDIM, "CogVideoXDPMScheduler")  # of diffusers; both read the same config


def convert_back(folder: str | Path, target: str | Path, *, loras: Sequence[Lora] = (), replace: bool = False) -> Path:
    """Writes a complete snapshot.

    Args:
      loras: changes of the transformer, merged in this order.
      replace: take the place of such a folder.

    Raises:
      UserError: the folder or a LoRA is incomplete, damaged or does not fit, or the target has files.
    """
    folder, target = Path(folder), Path(target)
    require_folder_name(target)
    snapshot = Snapshot(folder)
    parts = _parts(snapshot, loras)
    require_space(target, sum(part.nbytes for part in parts), f"writing {target}")
    scheduler = read_json(folder / SCHEDULER / SCHEDULER_CONFIG, dict).get("_class_name")
    known = scheduler if scheduler in SCHEDULERS else DDIM
    parts.append(_scheduler(folder, known))
    with whole_folder(target, replace=replace, ours=lambda name: name in (INDEX, *CLASSES)) as draft:
        write_bytes(draft / INDEX, json_bytes(index_file(snapshot.task, scheduler=known)))
        write_parts(draft, parts, replace=False)
    return target


def _parts(snapshot: Snapshot, loras: Sequence[Lora]) -> list[Part]:
    """Everything but the scheduler."""
    changes = [(snapshot.lora(lora), lora.scale) for lora in loras]
    return [
        tokenizer_part(snapshot.folder / TOKENIZER),
        part_of(TEXT, snapshot.parts[TEXT], config_file(snapshot.folder / TEXT)),
        part_of(VAE, snapshot.parts[VAE], _config(snapshot, VAE)),
        part_of(
            TRANSFORMER,
            snapshot.parts[TRANSFORMER],
            _config(snapshot, TRANSFORMER),
            changed=functools.partial(changed_by, changes),
        ),
    ]


def _config(snapshot: Snapshot, part: str) -> dict[str, Any]:
    """`config.json` of a part, with the class that diffusers needs."""
    return read_json(snapshot.folder / part / CONFIG, dict) | {"_class_name": CLASSES[part][1]}


def _scheduler(folder: Path, class_name: str) -> Part:
    config = read_json(folder / SCHEDULER / SCHEDULER_CONFIG, dict) | {"_class_name": class_name}
    return Part(SCHEDULER, {SCHEDULER_CONFIG: json_bytes(config)})
