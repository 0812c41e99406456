"""Conversion there and back needs little memory, whatever the size of the checkpoint."""

import json
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from cogvideo_jax.convert.torch_files import write_torch_file
from cogvideo_jax.models.cogvideo.convert.transformer_names import official_shapes, video_rules
from cogvideo_jax.runtime.safetensors_stream import Leaf
from tests.cogvideo.convert.checkpoints import official, write_zip

LAYERS, WIDTH, VOCABULARY = 8, 896, 60_000
MEASURE = """
import resource
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.convert.torch_files import import_torch
import_torch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for action in {actions}:
    eval(action)
    print(action, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sep="\t")
"""


def growth(actions: list[str]) -> dict[str, int]:
    """Bytes by which the peak of a fresh process that has loaded its libraries has grown after each action."""
    done = subprocess.run([sys.executable, "-c", MEASURE.format(actions=actions)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {action: int(grown) * 1024 for action, grown in (line.split("\t") for line in done.stdout.splitlines())}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of more than 300 MB, and the size of its file."""
    folder = tmp_path_factory.mktemp("large") / "sat"
    sizes = dict(num_layers=LAYERS, hidden_size=WIDTH, vocab_size=VOCABULARY, num_attention_heads=14)
    shapes = official_shapes(
        SimpleNamespace(
            width=WIDTH,
            layers=LAYERS,
            mlp_width=4 * WIDTH,
            vocab_size=VOCABULARY,
            base_positions=1024,
            extra_positions=2000,
        ),
        video_rules(),
    )
    leaves = {name: Leaf(np.dtype(np.float16), shape) for name, shape in shapes.items()}
    (folder / "1").mkdir(parents=True)
    (folder / "latest").write_text("1")
    (folder / "model_config.json").write_text(json.dumps(official("b_train_stage1_full").settings | sizes))
    file = folder / "1" / "mp_rank_00_model_states.pt"
    write_torch_file(file, leaves, chunks=lambda name: [np.zeros(leaves[name].shape, np.float16)], settings={})
    return folder, file.stat().st_size


@pytest.mark.slow
def test_peak_memory_stays_below_half_of_the_file(large, tmp_path):
    source, size = large
    ours, back = tmp_path / "ours", tmp_path / "back"
    packed = write_zip(tmp_path / "packed.zip", source, compression=zipfile.ZIP_STORED)
    peaks = growth(
        [
            f"convert({str(source)!r}, {str(ours)!r})",  # base and stage
            f"convert({str(source)!r}, {str(ours)!r}, part='stage2')",  # shared base
            f"convert_back({str(ours)!r}, {str(back)!r}, part='stage1')",
            f"convert({str(packed)!r}, {str(tmp_path / 'again')!r})",
        ]
    )
    print(f"file {size / 1e6:.0f} MB;", *(f"{peak / 1e6:.0f} MB after {action}" for action, peak in peaks.items()))
    assert size > 300e6 and len(peaks) == 4
    assert max(peaks.values()) < size / 2
