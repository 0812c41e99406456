"""Golden files e: super-resolution of the released code, direct and iterative; schedules, rounds, greedy tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.sampling.logits import Strategy, top_k_logits
from cogvideo_jax.models.cogvideo.superres import sample
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.text import left_pad_text
from tests.parity.goldens import golden_files, load, parameters
from tests.parity.superres_goldens import superres_config, superres_params
from tests.parity.transformer_goldens import largest

LOGITS = 2e-4
SMALL_GAP = 1e-3  # (p1 - p2) / p1 below which a greedy decision may turn by rounding


def setting(path, make):
    """The file, our model on its weights, and its padded text."""
    golden, arrays = load(path)
    config = superres_config(golden, arrays)
    padded = [left_pad_text(row, length=config.text_length, pad_id=0) for row in arrays["text"]]
    text, mask = (jnp.asarray(np.stack(part)) for part in zip(*padded))
    params = jax.tree.map(jnp.asarray, superres_params(parameters(arrays), config))
    model = make(config)

    @jax.jit
    def logits(*inputs):
        hidden = model.apply({"params": params}, *inputs)
        return model.apply({"params": params}, hidden, method=make.image_logits)

    return dict(golden=golden, arrays=arrays, config=config, model=model, params=params, logits=logits), text, mask


@pytest.fixture(scope="module", params=golden_files("e_dsr*.npz"), ids=lambda path: path.stem)
def direct(request):
    return setting(request.param, DirectSuperResolution)


@pytest.fixture(scope="module", params=golden_files("e_itersr*.npz"), ids=lambda path: path.stem)
def iterative(request):
    return setting(request.param, IterativeSuperResolution)


def at_positions(logits, positions, mask):
    """Selected positions and whether each is one that the model uses (no pad)."""
    valid = np.concatenate([np.asarray(mask), np.ones((len(mask), logits.shape[1] - mask.shape[1]), bool)], axis=1)
    return np.asarray(logits)[:, positions], valid[:, positions]


def test_direct_logits_equal_the_release(direct):
    case, text, mask = direct
    arrays, config = case["arrays"], case["config"]
    coarse = jnp.asarray(arrays["coarse"])
    unknown = jnp.full((len(coarse), config.fine_tokens), config.boi, jnp.int32)
    logits = case["logits"](text, mask, coarse, unknown)
    ours, valid = at_positions(logits, arrays["sel"], mask)
    difference = largest(ours[valid], arrays["logits_sel"][valid])
    columns, every = arrays["logits_col_first"], np.arange(config.length)
    first_row, valid = at_positions(logits[:1], every, mask[:1])
    difference = max(difference, largest(first_row[valid][:, : columns.shape[1]], columns[valid[0]]))
    print(f"direct {difference:.2e}")
    assert difference < LOGITS


def test_direct_logits_with_known_fine_tokens_equal_the_release(direct):
    case, text, mask = direct
    arrays = case["arrays"]
    known = jnp.asarray(arrays["fine_given"])
    rows = len(known)
    logits = case["logits"](text[:rows], mask[:rows], jnp.asarray(arrays["coarse"][:rows]), known)
    ours, valid = at_positions(logits, arrays["sel"], mask[:rows])
    difference = largest(ours[valid], arrays["logits2_sel"][valid])
    print(f"direct, known tokens {difference:.2e}")
    assert difference < LOGITS


def test_the_greedy_direct_pass_equals_the_release(direct):
    case, text, mask = direct
    arrays, config = case["arrays"], case["config"]
    labels = jnp.arange(config.image_codes)
    settings = sample.DirectSettings(
        strategy=Strategy(1.0, 1, 1.0, greedy=True), clusters=config.image_codes, warmup=1, block=(1, 0)
    )
    fine = sample.superres_direct(
        case["params"],
        text,
        mask,
        jnp.asarray(arrays["coarse"]),
        jax.random.split(jax.random.key(0), len(text)),
        labels,
        model=case["model"],
        settings=settings,
        rows_per_call=1,
    )
    decided = arrays["greedy_gap"] > SMALL_GAP
    print(f"greedy: {decided.mean():.4f} decided, {(np.asarray(fine) != arrays['greedy_out']).sum()} differ in all")
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(fine)[decided], arrays["greedy_out"][decided])


def test_schedules_equal_the_release(direct):
    case, _, _ = direct
    arrays = case["arrays"]
    for entry in case["golden"]["schedules"]:
        warmup, block = entry["warmup"], tuple(entry["block_hw"])
        ours = sample.schedule(case["config"].fine_grid, warmup=warmup, block=block)
        np.testing.assert_array_equal(ours, arrays[f"sched_w{warmup}_b{block[0]}x{block[1]}"])
        drawn = sample.drawn_at_step(case["config"].fine_grid, warmup=warmup, block=block)
        assert len(drawn) == entry["steps"]


def test_iterative_logits_of_the_first_and_the_last_round_equal_the_release(iterative):
    case, text, mask = iterative
    arrays, length = case["arrays"], case["config"].text_length
    inputs = {"iter0": arrays["input_ids_iter0"][:, length:], "last": arrays["greedy_after_iter"][-1:]}
    logits = {name: case["logits"](text, mask, jnp.asarray(fine)) for name, fine in inputs.items()}
    for name, values in logits.items():
        ours, valid = at_positions(values, arrays["sel"], mask)
        difference = largest(ours[valid], arrays[f"logits_sel_{name}"][valid])
        print(f"iterative {name} {difference:.2e}")
        assert difference < LOGITS
    columns, every = arrays["logits_col_first_iter0"], np.arange(case["config"].length)
    ours, valid = at_positions(logits["iter0"], every, mask)
    assert largest(ours[valid][:, : columns.shape[1]], columns[valid[0]]) < LOGITS


def test_the_tokens_of_each_round_equal_the_release(iterative):
    case, text, mask = iterative
    arrays, config = case["arrays"], case["config"]
    masks = sample.drawn_in_round(config.fine_grid, rounds=len(arrays["masks"]))
    np.testing.assert_array_equal(masks, arrays["masks"].astype(bool))
    rounds = sample.refinement_rounds(
        case["params"],
        text,
        mask,
        jnp.asarray(arrays["fine"]),
        jax.random.split(jax.random.key(0), len(text)),
        model=case["model"],
        settings=sample.RefineSettings(1.0, tuple(case["golden"]["topk_per_iteration"]), greedy=True),
    )
    for fine, masked_next, theirs in zip(np.asarray(rounds)[:-1], masks[1:], arrays["greedy_after_iter"]):
        np.testing.assert_array_equal(np.where(masked_next, config.boi, fine[0]), theirs)
    np.testing.assert_array_equal(rounds[-1], arrays["greedy_out"])


@pytest.mark.parametrize("path", golden_files("d_*.npz"), ids=lambda path: path.stem)
def test_top_k_law_equals_the_release(path):
    _, arrays = load(path)
    kept = top_k_logits(jnp.asarray(arrays["logits"]) / 1.1, top_k=jnp.int32(40), most=60)
    assert largest(jax.nn.softmax(kept, axis=-1), arrays["itersr_probs_t1.1_top40"]) < 1e-6
