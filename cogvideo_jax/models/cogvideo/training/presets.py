"""Settings that the files of configs/ share, by group; each file states its own beside them."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig

NO_VALIDATION = dict(every=0, batches=4, share=0.0)  # the shipped demo weights saw every clip


def demo(part: str, *, model: Any, learning_rate: float = 1.5e-3, **own: Any) -> ConfigDict:
    """Transformers of the demo: two CPU cores, Muon.

    Args:
      model: sizes, a dataclass.
      own: all other keys; see `config.py`.
    """
    return transformer(
        part,
        model=model,
        keep_checkpoints=2,
        dtype="float32",
        remat="all_but_matrices",
        validation=NO_VALIDATION,
        samples=dict(every=0, prompts=("a red ball bounces to the right", "红色的球向右移动"), weights=""),
        mesh=dict(data=-1, fsdp=1, tensor=1),
        optimizer=dict(
            learning_rate=learning_rate,
            warmup_steps=200,
            final_fraction=0.05,
            b1=0.9,
            b2=0.98,
            eps=1e-8,
            weight_decay=1e-4,
            clip_norm=1.0,
            muon=True,
        ),
        **own,
    )


def released(
    part: str, *, model: Any, warmup_steps: int, weight_decay: float = 1e-2, checkpoint_every: int = 500, **own: Any
) -> ConfigDict:
    """Transformers of the released sizes: pods, the paper's optimizer.

    Args:
      model: sizes, a dataclass.
      own: all other keys; see `config.py`.
    """
    return transformer(
        part,
        model=model,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=3,
        dtype="bfloat16",
        remat="everything",
        validation=dict(every=500, batches=1, share=0.01),
        samples=dict(every=0, prompts=("a lion is drinking water", "一只狮子在喝水"), weights="weights/cogvideo"),
        mesh=dict(data=1, fsdp=-1, tensor=8),
        optimizer=dict(
            learning_rate=2e-4,
            warmup_steps=warmup_steps,
            final_fraction=0.1,
            b1=0.9,
            b2=0.95,
            eps=1e-8,
            weight_decay=weight_decay,
            clip_norm=0.1,
            muon=False,
        ),
        **own,
    )


def tuned(part: str, *, model: Any, clips: str, steps: int, batch_size: int) -> ConfigDict:
    """A stage tuned on the labelled clips of the paper's tables, from the released weights.

    Args:
      clips: names the token cache.
    """
    if part == "stage1":
        example = dict(rates=(1.0, 2.0, 4.0, 8.0), text_dropout=0.1)
    else:
        example = dict(rates=(2.0, 4.0, 8.0), tiled=False, text_dropout=0.1)
    return released(
        part,
        model=model,
        steps=steps,
        batch_size=batch_size,
        warmup_steps=steps // 1000,
        base="weights/cogvideo/base.safetensors",
        attention_plus=f"weights/cogvideo/{part}.safetensors",
        data=dict(cache=f"data/{clips}_tokens", text_model="weights/cogvideo/text.model"),
        example=example,
    )


def transformer(part: str, *, model: TransformerConfig | SuperResolutionConfig, **own: Any) -> ConfigDict:
    """Settings that all transformers share; `own` adds the others."""
    shared = dict(microbatches=1, attention="auto")
    return task(part, model=model, log_every=20, **shared, **own)


def task(part: str, *, model: Any, **own: Any) -> ConfigDict:
    """Settings that all parts share; `own` adds the others."""
    return ConfigDict(
        dict(family="cogvideo", part=part, seed=0, ema=0.0, tensorboard=False, model=dataclasses.asdict(model), **own)
    )
