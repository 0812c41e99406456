"""A whole pipeline with small random weights: 16 x 16 pixels, 4 x 4 tokens."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.layout import base_layout, interpolation_layout, keyframe_layout
from cogvideo_jax.models.cogvideo.superres.config import CoarseGrid, SuperResolutionConfig
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.text import TextTokenizer, fit_text_model
from cogvideo_jax.models.cogvideo.training.parameters import split_attention_plus
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, is_attention_plus
from cogvideo_jax.models.cogvideo.vq.config import DEMO
from cogvideo_jax.models.cogvideo.vq.networks import init_networks
from cogvideo_jax.runtime.weights import load_weights, save_weights

CODES, GRID, PIXELS, TEXT_LENGTH = 32, 4, 16, 16
SENTENCES = [
    "a red ball moves to the right",
    "红色的球向右移动",
    "4.0秒 2.0秒 1.0秒 0.5秒",
    "视频",
    "高清摄影",
] * 10
STRATEGY = {"temperature": 1.0, "top_clusters": 8}
SAMPLING = {
    "pixels": PIXELS,
    "keyframe_fps": [1.0],
    "interpolation_fps": [2.0, 4.0, 8.0],
    "first_frame": STRATEGY,
    "keyframes": STRATEGY,
    "interpolation": STRATEGY,
    "superres": STRATEGY,
    "first_frame_suffix": " 高清摄影",
    "guidance": 2.0,
    "guided_suffix": "",
    "text_log_weight": 0.5,
    "windows_per_call": 4,
    "superres_per_call": 4,
    "decoded_per_call": 8,
    "whole_words": True,
}


def transformer(layout, vocabulary) -> TransformerConfig:
    temporal = layout.frames > 1
    return TransformerConfig(
        layout=layout,
        vocab_size=vocabulary.size,
        image_codes=CODES,
        boi=vocabulary.boi,
        width=16,
        heads=2,
        layers=2,
        mlp_width=32,
        base_positions=TEXT_LENGTH + GRID * GRID,
        first_frame_position=TEXT_LENGTH,
        extra_positions=4 * GRID * GRID if temporal else 0,
        temporal=temporal,
        window=2 if layout.context_slots else None,
        dropout=0.0,
    )


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder of weights as `cogvideo assemble` writes it."""
    folder = tmp_path_factory.mktemp("weights")
    model = fit_text_model(SENTENCES, pieces=340)
    (folder / "text.model").write_bytes(model)
    vocabulary = TextTokenizer(model, image_codes=CODES).vocabulary
    layouts = {
        "base": base_layout(text_length=TEXT_LENGTH, grid=GRID),
        "stage1": keyframe_layout(text_length=TEXT_LENGTH, grid=GRID),
        "stage2": interpolation_layout(text_length=TEXT_LENGTH, grid=GRID),
    }
    for part, layout in layouts.items():
        config = transformer(layout, vocabulary)
        text = jnp.zeros((1, TEXT_LENGTH), jnp.int32)
        frames = jnp.zeros((1, layout.frames, layout.frame_tokens), jnp.int32)
        init = jax.jit(Transformer(config).init)
        params = nn.meta.unbox(init(jax.random.key(0), text, text == 0, frames)["params"])
        kept = {path: leaf for path, leaf in flatten_dict(params).items() if part == "base" or is_attention_plus(path)}
        description = {"kind": part, "config": dataclasses.asdict(config)}
        save_weights(folder / f"{part}.safetensors", unflatten_dict(kept), description)
    vq = dataclasses.replace(
        DEMO,
        rates=(4,),
        codebook_size=CODES,
        code_width=8,
        encoder_patch=4,
        encoder_channels=16,
        decoder_channels=16,
        decoder_multipliers=((1,),),
    )
    codes = np.random.default_rng(0).normal(size=(CODES, 8)).astype(np.float32)
    codebook = {"vectors": codes, "cluster_size": np.ones(CODES, np.float32), "embed_avg": codes}
    tree = {"networks": jax.jit(lambda rng: init_networks(vq, rng))(jax.random.key(1)), "codebook": codebook}
    save_weights(
        folder / "tokenizer.safetensors",
        jax.device_get(tree),
        {"kind": "tokenizer", "config": dataclasses.asdict(vq)},
    )
    (folder / "pipeline.json").write_text(json.dumps(SAMPLING, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def enlarging(weights, tmp_path_factory):
    """The folder with a direct model beside it: 4 x 4 -> 8 x 8 tokens, 16 -> 32 pixels."""
    folder = tmp_path_factory.mktemp("enlarging") / "weights"
    shutil.copytree(weights, folder)
    add_superres(folder, "superres", DirectSuperResolution)
    return folder


@pytest.fixture(scope="session")
def refining(enlarging, tmp_path_factory):
    """The folder with an iterative model, too, which its sampling config asks for."""
    folder = tmp_path_factory.mktemp("refining") / "weights"
    shutil.copytree(enlarging, folder)
    add_superres(folder, "itersr", IterativeSuperResolution)
    wanted = {"iterative_superres": {"temperature": 1.0, "top_k": [8, 4], "greedy": False}}
    (folder / "pipeline.json").write_text(json.dumps(SAMPLING | wanted, ensure_ascii=False), encoding="utf-8")
    return folder


def add_superres(folder, part, kind) -> None:
    """Random super-resolution weights that stand on the folder's base."""
    base = load_weights(folder / "base.safetensors")[1]["config"]
    same = {key: base[key] for key in ("vocab_size", "image_codes", "boi", "width", "heads", "layers", "mlp_width")}
    coarse = CoarseGrid(grid=4, first_position=base["first_frame_position"], kernel=(3, 3))
    config = SuperResolutionConfig(
        **same,
        text_length=base["layout"]["text_length"],
        coarse=coarse if kind is DirectSuperResolution else None,
        fine_grid=8,
        fine_kernel=(5, 3),
        base_positions=base["base_positions"],
        dropout=0.0,
    )
    model = kind(config)
    params = nn.meta.unbox(model.init(jax.random.key(7), *model.empty_inputs())["params"])
    description = {"kind": part, "config": dataclasses.asdict(config)}
    save_weights(folder / f"{part}.safetensors", jax.device_get(split_attention_plus(params).trained), description)
