"""Golden files c and d: cached sampling of the released code, teacher-forced, and its token laws."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.config import Compat
from cogvideo_jax.models.cogvideo.convert import transformer_names
from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, begin, step_logits
from cogvideo_jax.models.cogvideo.sampling.logits import Strategy, cluster_logits, sample, token_probabilities
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, image_head, unroll
from tests.cogvideo.transformer import tiny
from tests.parity.goldens import golden_files, load, parameters
from tests.parity.transformer_goldens import base_config, largest, transformer_config

pytestmark = pytest.mark.slow
FILES = golden_files("c_*.npz")
LOGITS = 2e-4
UNUSED = Strategy(temperature=1.0, top_clusters=1)


def padded(text: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded to `length`, with its mask; the released sampler has no pads, ours has static shapes."""
    pads = length - text.shape[-1]
    text = np.atleast_2d(text)
    return np.pad(text, ((0, 0), (pads, 0))), np.pad(np.ones_like(text, bool), ((0, 0), (pads, 0)))


@functools.cache
def opened(path: Path) -> dict:
    """The file, our model on its weights, and what the sampler is told."""
    golden, arrays = load(path)
    text_length, given = golden["text_len"], golden["given_frames"]
    official = parameters(arrays)
    video = transformer_config(golden, arrays, text_length=text_length + 3)
    params = transformer_names.from_official(official, video)
    config = video
    if golden["enforce_no_swin"]:
        config = base_config(golden, arrays, text_length=text_length + 3)
        names = transformer_names.official_names(config)
        params = transformer_names.from_official({name: official[name] for name in names}, config)
    settings = DecodeSettings(
        strategy=UNUSED,
        clusters=1,
        guidance=golden["guidance_alpha"] if golden["guided"] else None,
        text_log_weight=golden["log_text_attention_weights"],
        limited=golden["limited_spatial_channel_mem"],
        compat=Compat.RELEASE,
    )
    tokens = arrays["full_tokens"]
    batch, length = tokens.shape[0], config.layout.text_length
    text, mask = padded(tokens[:, :text_length], length)
    if golden["guided"]:
        guider, guider_mask = padded(np.repeat(arrays["guider_text"][None], batch, 0), length)
        text, mask = np.concatenate([text, guider]), np.concatenate([mask, guider_mask])
    frames = tokens[:, text_length + 1 :].reshape(batch, -1, config.layout.frame_tokens)
    model, params = unroll(Transformer(config), jax.tree.map(jnp.asarray, params))
    return dict(
        golden=golden,
        arrays=arrays,
        model=model,
        params=params,
        settings=settings,
        text=jnp.asarray(text),
        mask=jnp.asarray(mask),
        frames=jnp.asarray(frames),
        given=given,
    )


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def case(request):
    return opened(request.param)


def recorded_steps(case, params, **how):
    """Our logits at the recorded steps, and those of the released sampler."""
    model, frames, given = case["model"], case["frames"], case["given"]
    arrays, golden, layout = case["arrays"], case["golden"], case["model"].config.layout
    settings = dataclasses.replace(case["settings"], **how)
    cache = begin(params, case["text"], case["mask"], frames[:, :given], model=model, settings=settings)
    inputs = shift_right(frames, boi=model.config.boi).reshape(len(frames), -1)
    steps = jnp.arange(given * layout.frame_tokens, frames.shape[1] * layout.frame_tokens)

    @jax.jit
    def teacher_forced(params, cache):
        head = image_head(params, model.config)

        def one(cache, index):
            token = inputs[:, index[None]]
            cache, logits = step_logits(params, head, cache, token, index[None], model=model, settings=settings)
            return cache, logits[:, 0]

        return jax.lax.scan(one, cache, steps)[1]

    logits = np.asarray(teacher_forced(params, cache))
    first = golden["text_len"] + 1 + given * layout.frame_tokens  # index of the first generated token
    return logits[arrays["counters"] - first], arrays["sampled_logits"]


def test_every_recorded_step_equals_the_released_sampler(case):
    difference = largest(*recorded_steps(case, case["params"]))
    print(f"steps {difference:.2e}")
    assert difference < LOGITS


@pytest.mark.parametrize("int8", ["weights", "cache"])
def test_int8_stays_near_the_released_sampler(int8):
    case = opened(FILES[-1])
    params = case["params"]
    if int8 == "weights":
        params = tiny.int8_params(params, case["model"].config.image_codes)
    ours, theirs = recorded_steps(case, params, int8_cache=int8 == "cache")
    error = np.sqrt(np.mean((ours - theirs) ** 2)) / np.std(theirs)
    print(f"int8 {int8}: {error:.2%} of the logits' deviation")
    assert 1e-5 < error < 0.05


def test_prefill_equals_the_released_sampler(case):
    model, golden, arrays = case["model"], case["golden"], case["arrays"]
    layout, batch = model.config.layout, len(case["frames"])
    inputs = shift_right(case["frames"][:, : case["given"]], boi=model.config.boi)

    @jax.jit
    def prefill(params, text, mask):
        options = dict(text_log_weight=case["settings"].text_log_weight, compat=Compat.RELEASE)
        hidden, _ = model.apply(params, text, mask, inputs, method=Transformer.prefill, **options)
        return model.apply(params, hidden, method=Transformer.image_logits)

    checks = [(case["text"][:batch], case["mask"][:batch], golden["text_len"], "prefill")]
    if golden["guided"]:
        checks.append((case["text"][batch:], case["mask"][batch:], golden["guider_text_len"], "guider_prefill"))
    for text, mask, text_length, name in checks:
        logits = prefill({"params": case["params"]}, text, mask)
        unpadded = logits[:, layout.text_length - text_length :]
        theirs = arrays[f"{name}_logits_sel"]
        difference = largest(unpadded[: len(theirs), arrays[f"{name}_sel"]], theirs)
        print(f"{name} {difference:.2e}")
        assert difference < LOGITS


@pytest.fixture(scope="module", params=golden_files("d_*.npz"), ids=lambda path: path.stem)
def laws(request):
    return load(request.param)


def test_token_law_equals_cluster_sampling(laws):
    golden, arrays = laws
    labels = jnp.asarray(arrays["cluster_labels"])
    clusters = int(arrays["cluster_labels"].max()) + 1
    worst = 0.0
    for i, combo in enumerate(golden["combos"]):
        strategy = Strategy(combo["temperature"], combo["top_k"], combo["temperature2"])
        ours = token_probabilities(jnp.asarray(arrays["logits"]), strategy, labels, clusters)
        worst = max(worst, largest(ours, arrays[f"probs_{i}"]))
        kept = cluster_logits(arrays["logits"] / strategy.temperature, strategy, labels, clusters)
        for row, expected in zip(np.asarray(kept), arrays[f"top_clusters_{i}"]):
            assert set(np.flatnonzero(row > -1e4)) == set(expected)
    print(f"token law {worst:.2e}")
    assert worst < 1e-6


def test_super_resolution_law_is_the_same_with_other_settings(laws):
    _, arrays = laws
    labels = jnp.asarray(arrays["cluster_labels"])
    strategy = Strategy(1.0, 6, 0.6)
    rows = arrays["dsr_probs_top6"]
    ours = token_probabilities(
        jnp.asarray(arrays["logits"][: len(rows)]), strategy, labels, int(arrays["cluster_labels"].max()) + 1
    )
    assert largest(ours, rows) < 1e-6


def test_plain_top_k_is_cluster_sampling_with_one_cluster_a_code(laws):
    _, arrays = laws
    codes = arrays["logits"].shape[1]
    ours = token_probabilities(jnp.asarray(arrays["logits"]), Strategy(1.1, 40, 1.0), jnp.arange(codes), codes)
    assert largest(ours, arrays["itersr_probs_t1.1_top40"]) < 1e-6


def test_draws_follow_the_token_law(laws):
    _, arrays = laws
    labels, draws = jnp.asarray(arrays["cluster_labels"]), 4000
    clusters, strategy = int(arrays["cluster_labels"].max()) + 1, Strategy(1.05, 12)
    logits = jnp.repeat(jnp.asarray(arrays["logits"][:1]), draws, axis=0)
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = np.asarray(jax.jit(sample, static_argnums=(2, 4))(keys, logits, strategy, labels, clusters))
    law = np.asarray(token_probabilities(logits[:1], strategy, labels, clusters))[0]
    distance = np.abs(np.bincount(drawn, minlength=law.size) / draws - law).sum() / 2
    expected = np.sqrt(law * (1 - law) / draws * 2 / np.pi).sum() / 2
    assert not np.any(law[drawn] == 0)
    assert distance < 2 * expected
