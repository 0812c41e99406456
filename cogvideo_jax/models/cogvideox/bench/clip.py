"""A whole clip, from the start of a process to a file, beside diffusers: the same random weights, float32 on a CPU."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.bench.beside_diffusers import require_libraries
from cogvideo_jax.models.cogvideox.bench.sizes import Size
from cogvideo_jax.models.cogvideox.clip import published
from cogvideo_jax.models.cogvideox.convert.sizes import scheduler_file, transformer_file, vae_file
from cogvideo_jax.models.cogvideox.snapshot import FROM_TEXT, INDEX, TEXT, TRANSFORMER, VAE

PROMPT = "a red ball rolls to the right"
OURS, THEIRS = "cogvideo_jax", "cogvideo_jax.models.cogvideox.bench.diffusers_clip"  # modules that make one


class ClipTiming(NamedTuple):
    """Result for a clip.

    Attributes:
      seconds, other: from the start of the process to the finished file, ours and that of diffusers.
    """

    frames: int
    height: int
    width: int
    steps: int
    seconds: float
    other: float


def measure_clip(
    size: Size, *, machine: Machine, steps: int, frames: int | None, pixels: tuple[int, int] | None, trace: Any = None
) -> ClipTiming:
    """Times one process of each, one after the other, with DDIM and guidance.

    Raises:
      UserError: the libraries are not installed, or a process fails.
    """
    require_libraries()
    made_for = published(size.transformer)
    frames, (height, width) = frames or made_for.frames, pixels or made_for.size
    with tempfile.TemporaryDirectory() as name:
        folder = write_random(size, Path(name) / "weights")
        seconds = []
        for module, command in ((OURS, ["generate", PROMPT, "--sampler", "ddim", "--weights"]), (THEIRS, [PROMPT])):
            out = str(Path(name) / f"{len(seconds)}.mp4")
            asked = ["--steps", str(steps), "--frames", str(frames), "--size", f"{height}x{width}", "--out", out]
            seconds.append(_seconds_of([sys.executable, "-m", module, *command, str(folder), *asked]))
    return ClipTiming(frames, height, width, steps, *seconds)


def _seconds_of(command: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise UserError(f"{command[2]} ended with exit code {done.returncode}: {said}")
    return time.perf_counter() - begun


def write_random(size: Size, folder: Path) -> Path:
    """A snapshot with the random weights that diffusers and transformers start from."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    text = T5Config(**dataclasses.asdict(size.text) | {"feed_forward_proj": "gated-gelu"})
    T5EncoderModel(text).save_pretrained(folder / TEXT)
    CogVideoXTransformer3DModel.from_config(transformer_file(size.transformer)).save_pretrained(folder / TRANSFORMER)
    AutoencoderKLCogVideoX.from_config(vae_file(size.vae)).save_pretrained(folder / VAE)
    (folder / INDEX).write_text(json.dumps({"_class_name": FROM_TEXT}))
    for part, file, data in (
        ("scheduler", "scheduler_config.json", json.dumps(scheduler_file(size.transformer)).encode()),
        ("tokenizer", "spiece.model", _text_model()),
    ):
        (folder / part).mkdir()
        (folder / part / file).write_bytes(data)
    return folder


def _text_model() -> bytes:
    """A tokenizer of the prompt's letters, with the ids of T5."""
    from sentencepiece import SentencePieceTrainer

    model, ids = io.BytesIO(), dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    how = dict(vocab_size=40, hard_vocab_limit=False, minloglevel=2)
    SentencePieceTrainer.train(sentence_iterator=iter([PROMPT] * 20), model_writer=model, **ids, **how)
    return model.getvalue()


def cells(row: ClipTiming) -> dict[str, str]:
    """Values as text, by column."""
    return {
        "clip": f"{row.frames}x{row.height}x{row.width}",
        "steps": f"{row.steps}",
        "s": f"{row.seconds:.1f}",
        "diffusers": f"{row.other:.1f}",
        "ratio": f"{row.other / row.seconds:.2f}",
    }
