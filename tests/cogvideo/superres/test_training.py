"""Training of super-resolution: initial weights, trained parameters, and the loss."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cogvideo_jax.data.cache import TokenCache, write_token_cache
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.layout import base_layout
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.text_model import place_text_model
from cogvideo_jax.models.cogvideo.training.superres_loss import loss_and_metrics
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, is_attention_plus
from cogvideo_jax.runtime.weights import load_weights, save_weights
from tests.cogvideo.superres import tiny
from tests.training.on_devices import run_all
from tests.training.run import build as build_task
from tests.training.run import train

CODES, TEXT_LENGTH = 32, 8


class Mosaics(ClipSource):
    """Clips of six frames of 6 x 6 pixels, each block of 3 x 3 of one value."""

    def __len__(self) -> int:
        return 8

    def name(self, row: int) -> str:
        return f"clip {row}"

    def __getitem__(self, row: int) -> Clip:
        blocks = np.random.default_rng(row).integers(0, CODES, (6, 2, 2, 1), np.uint8)
        frames = blocks.repeat(3, axis=1).repeat(3, axis=2).repeat(3, axis=3)
        return Clip(frames, 8.0, (f"ball number {row}",), self.name(row))


def encode(frames):
    """A code a pixel: its red."""
    return frames[..., 0].reshape(len(frames), -1).astype(np.int32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> TokenCache:
    cache = write_token_cache(
        Mosaics(), encode, tmp_path_factory.mktemp("cache"), fingerprint="none", frames_per_call=12, coarse_size=2
    )
    place_text_model(cache, None, pieces=300)
    return cache


@pytest.fixture(scope="module")
def sizes(cache):
    """What base and super-resolution have in common."""
    text = TextTokenizer.from_file(cache.path / "text.model", image_codes=CODES)
    shared = dict(text_length=TEXT_LENGTH, vocab_size=text.vocabulary.size, image_codes=CODES, boi=text.vocabulary.boi)
    return shared | dict(width=16, heads=2, layers=2, mlp_width=32, base_positions=16, dropout=0.1)


@pytest.fixture(scope="module")
def base(sizes, tmp_path_factory):
    """Weights of an untrained base on a grid of 2."""
    own = {name: value for name, value in sizes.items() if name != "text_length"}
    config = TransformerConfig(
        layout=base_layout(text_length=TEXT_LENGTH, grid=2),
        first_frame_position=TEXT_LENGTH,
        extra_positions=0,
        temporal=False,
        window=None,
        **own,
    )
    model = Transformer(config)
    params = nn.meta.unbox(model.init(jax.random.key(7), *model.empty_inputs())["params"])
    path = tmp_path_factory.mktemp("base") / "weights.safetensors"
    save_weights(path, jax.device_get(params), {"kind": "base", "config": dataclasses.asdict(config)})
    return path


@pytest.fixture
def make_config(cache, sizes, base):
    """part, changes -> a config with every key that `cogvideo train` reads."""

    def make(part: str, **changes) -> ConfigDict:
        coarse = dataclasses.replace(tiny.COARSE, first_position=TEXT_LENGTH) if part == "superres" else None
        values = dict(
            family="cogvideo",
            part=part,
            seed=3,
            steps=4,
            batch_size=4,
            log_every=1,
            checkpoint_every=10,
            keep_checkpoints=1,
            dtype="float32",
            remat="nothing",
            microbatches=1,
            attention="auto",
            mesh=dict(data=1, fsdp=1, tensor=1),
            ema=0.0,
            tensorboard=False,
            samples=dict(every=0, prompts=("a ball",), weights=""),
            validation=dict(every=0, batches=1, share=0.0),
            base=str(base),
            train_base=part == "itersr",
            model=dataclasses.asdict(tiny.config(coarse, **sizes)),
            data=dict(cache=str(cache.path), text_model=str(cache.path / "text.model")),
            example=dict(mask_ratios=(0.2, 1.0)),
            optimizer=dict(
                learning_rate=1e-2,
                warmup_steps=2,
                final_fraction=0.1,
                b1=0.9,
                b2=0.95,
                eps=1e-8,
                weight_decay=1e-4,
                clip_norm=1.0,
                muon=True,
            ),
        )
        return ConfigDict(values | changes)

    return make


def build(config):
    """The task and where it starts."""
    task = build_task(config)
    return task, (task.first_state(), task.frozen(), task.batches())


def test_the_direct_model_trains_what_it_adds_and_the_base_stays_bit_equal(make_config, base):
    task, (state, frozen, batches) = build(make_config("superres"))
    before = jax.device_get(state.trained)
    for i in range(2):
        state, metrics = task.step(state, frozen, next(batches), jax.random.key(i))
    inherited = flatten_dict(load_weights(base)[0])
    frozen = flatten_dict(frozen)
    assert set(frozen) == set(inherited)
    for path, leaf in frozen.items():
        assert np.asarray(leaf).tobytes() == inherited[path].tobytes(), path
    for path, leaf in flatten_dict(jax.device_get(state.trained)).items():
        assert is_attention_plus(path) and np.any(leaf != flatten_dict(before)[path]), path
    assert np.isfinite(float(metrics["loss"])) and 0 <= float(metrics["accuracy"]) <= 1


@pytest.mark.slow
def test_it_learns_the_same_split_over_devices(make_config, tmp_path):
    meshes = dict(data=1, fsdp=1, tensor=1), dict(data=2, fsdp=2, tensor=2)
    alone, split = run_all([make_config("superres", steps=3, mesh=mesh) for mesh in meshes], tmp_path)
    np.testing.assert_allclose(split["losses"], alone["losses"], rtol=2e-5)
    assert split["compilations"] == 1
    matrices = {name: parts for name, parts in split["parts"].items() if "kernel" in name}
    assert len(matrices) >= 4 and set(matrices.values()) == {4}, matrices


def test_the_iterative_model_can_train_everything(make_config, tmp_path, base):
    config = make_config("itersr")
    weights, description = load_weights(train(config, tmp_path))
    inherited = flatten_dict(load_weights(base)[0])
    changed = [
        path for path, leaf in flatten_dict(weights).items() if path in inherited and np.any(leaf != inherited[path])
    ]
    assert description["kind"] == "itersr" and len(changed) > 10
    _, (state, _, _) = build(make_config("itersr", train_base=False))
    assert set(flatten_dict(state.trained)) == {("extra_positions",)}


def test_both_halves_start_as_the_base(make_config, base):
    inherited, _ = load_weights(base)
    added = jax.device_get(build(make_config("superres"))[1][0].trained)
    for name, leaf in added["layers"]["local"].items():
        np.testing.assert_array_equal(leaf, inherited["layers"]["spatial"][name])
    picture = inherited["position_table"][TEXT_LENGTH : TEXT_LENGTH + 4].reshape(2, 2, 16)
    tiled = added["extra_positions"].reshape(6, 6, 16)
    for y, x in np.ndindex(6, 6):
        np.testing.assert_array_equal(tiled[y, x], picture[y % 2, x % 2])


def test_the_direct_model_learns_to_enlarge(make_config):
    """Every fine token is its coarse cell's; the base is trained too, for its head is random here."""
    config = make_config("superres", steps=150, train_base=True, example=dict(mask_ratios=(1.0, 1.0)))
    config.model.dropout = 0.0
    task, (state, frozen, batches) = build(config)
    losses = []
    for i in range(150):
        state, metrics = task.step(state, frozen, next(batches), jax.random.key(i))
        losses.append(float(metrics["loss"]))
    assert losses[0] > np.log(CODES) - 0.5 and losses[-1] < 0.7 * losses[0]


def test_only_masked_tokens_carry_loss():
    config = tiny.config()
    model, params = tiny.random_model(config)
    text, mask, coarse, fine = tiny.random_batch(config)
    masked = jnp.zeros(fine.shape, bool).at[0, 3].set(True).at[1, 30].set(True)
    batch = dict(text=text, text_mask=mask, coarse=coarse, fine=fine, masked=masked)
    loss, metrics = jax.jit(lambda batch: loss_and_metrics(params, batch, None, model=model))(batch)
    known = jnp.where(masked, config.boi, fine)
    hidden = jax.jit(model.apply)({"params": params}, text, mask, coarse, known)[:, -config.fine_tokens :]
    logits = jax.nn.log_softmax(model.apply({"params": params}, hidden, method=type(model).image_logits))
    expected = -(logits[0, 3, fine[0, 3]] + logits[1, 30, fine[1, 30]]) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert float(metrics["masked"]) == pytest.approx(2 / masked.size)


def test_a_cache_without_coarse_ids_is_refused(make_config, tmp_path, cache):
    plain = write_token_cache(Mosaics(), encode, tmp_path, fingerprint="none", frames_per_call=12)
    config = make_config("superres", data=dict(cache=str(plain.path), text_model=str(cache.path / "text.model")))
    with pytest.raises(ValueError, match="tokenize with --coarse-size"):
        build(config)


def test_a_base_of_another_size_is_refused(make_config):
    config = make_config("superres")
    config.model.mlp_width = 64
    with pytest.raises(ValueError, match="does not fit"):
        build(config)
