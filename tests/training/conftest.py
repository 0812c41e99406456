"""A token cache of a few drawn clips, and configs small enough to train in seconds."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from cogvideo_jax.data.cache import TokenCache, write_token_cache
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.layout import base_layout, interpolation_layout, keyframe_layout
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.text_model import place_text_model

CODES, GRID, TEXT_LENGTH = 32, 2, 12
LAYOUTS = {"base": base_layout, "stage1": keyframe_layout, "stage2": interpolation_layout}


class NumberedClips(ClipSource):
    """Clips of 33 frames whose pixels are a fixed function of row and time."""

    def __len__(self) -> int:
        return 12

    def name(self, row: int) -> str:
        return f"clip {row}"

    def __getitem__(self, row: int) -> Clip:
        frames = np.random.default_rng(row).integers(0, CODES, (33, GRID, GRID, 3), np.uint8)
        return Clip(frames, 8.0, (f"ball number {row}", "红色的球"), self.name(row))


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> TokenCache:
    """ids are the red channel."""

    def encode(frames):
        return frames[..., 0].reshape(len(frames), -1).astype(np.int32)

    out = tmp_path_factory.mktemp("cache")
    cache = write_token_cache(NumberedClips(), encode, out, fingerprint="none")
    place_text_model(cache, None, pieces=300)
    return cache


@pytest.fixture(scope="session")
def make_config(cache):
    """part, changes -> a config with every key that `cogvideo train` reads."""
    text = TextTokenizer.from_file(cache.path / "text.model", image_codes=CODES)

    def make(part: str, **changes) -> ConfigDict:
        layout = LAYOUTS[part](text_length=TEXT_LENGTH, grid=GRID)
        temporal = part != "base"
        model = TransformerConfig(
            layout=layout,
            vocab_size=text.vocabulary.size,
            image_codes=CODES,
            boi=text.vocabulary.boi,
            width=16,
            heads=2,
            layers=2,
            mlp_width=32,
            base_positions=20,
            first_frame_position=TEXT_LENGTH,
            extra_positions=16 if temporal else 0,
            temporal=temporal,
            window=None,
            dropout=0.1,
        )
        example = {
            "base": dict(
                first_frame_suffix=" 高清",
                first_frame_probability=0.4,
                moment_probability=0.3,
                moments_a_second=1.0,
                rates=(1.0,),
                text_dropout=0.1,
            ),
            "stage1": dict(rates=(0.5, 1.0), text_dropout=0.1),
            "stage2": dict(rates=(2.0, 4.0, 8.0), tiled=False, text_dropout=0.1),
        }[part]
        values = dict(
            family="cogvideo",
            part=part,
            seed=3,
            steps=8,
            batch_size=4,
            log_every=1,
            checkpoint_every=3,
            keep_checkpoints=2,
            dtype="float32",
            remat="nothing",
            microbatches=1,
            attention="auto",
            mesh=dict(data=1, fsdp=1, tensor=1),
            ema=0.0,
            tensorboard=False,
            samples=dict(every=0, prompts=("a ball",), weights=""),
            validation=dict(every=0, batches=1, share=0.0),
            model=dataclasses.asdict(model),
            data=dict(cache=str(cache.path), text_model=str(cache.path / "text.model")),
            example=example,
            optimizer=dict(
                learning_rate=1e-2,
                warmup_steps=2,
                final_fraction=0.1,
                b1=0.9,
                b2=0.95,
                eps=1e-8,
                weight_decay=1e-4,
                clip_norm=1.0,
                muon=part != "stage2",  # both optimizers are tested
            ),
        )
        starts = {} if part == "base" else {"base": "none.safetensors", "attention_plus": ""}
        return ConfigDict(values | starts | changes)

    return make
