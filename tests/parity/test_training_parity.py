"""Golden files b: logits, losses and gradients of the released training model, both stages, full and windowed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.models.cogvideo.convert import transformer_names
from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.training.losses import cross_entropy
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, image_head, is_attention_plus, project
from cogvideo_jax.nn.quantized import Matrix
from tests.parity.goldens import golden_files, load, parameters
from tests.parity.transformer_goldens import largest, transformer_config

pytestmark = pytest.mark.slow
LOGITS, GRADIENTS = 2e-4, 1e-4  # absolute; relative to the tensor's maximum


@pytest.fixture(scope="module", params=golden_files("b_*.npz"), ids=lambda path: path.stem)
def case(request):
    """Golden arrays beside our outputs on the same weights and tokens."""
    golden, arrays = load(request.param)
    text_length = golden["layout"][0]
    config = transformer_config(golden, arrays, text_length=text_length)
    layout = config.layout
    model = Transformer(config)
    params = jax.tree.map(jnp.asarray, transformer_names.from_official(parameters(arrays), config))
    frozen = {k: v for k, v in flatten_dict(params).items() if not is_attention_plus(k)}
    added = {k: v for k, v in flatten_dict(params).items() if is_attention_plus(k)}
    order = layout.times()
    by_time = (-1, layout.frames, layout.frame_tokens)
    text = arrays["text"][:, :text_length]
    mask = arrays["attention_mask_totxt"].astype(bool)
    frames = arrays["text"][:, text_length + 1 :].reshape(by_time)[:, order]
    inputs = shift_right(jnp.asarray(frames), boi=config.boi)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def forward(added, frozen):
        variables = {"params": unflatten_dict(frozen | added)}
        hidden = model.apply(variables, text, mask, inputs)
        flat = frames.reshape(len(frames), -1)
        weights = np.zeros(frames.shape, np.float32)
        weights[:, layout.first_loss_slot :] = 1 / frames[:, layout.first_loss_slot :].size
        table = image_head(variables["params"], config).values
        loss, losses, _ = cross_entropy(hidden[:, text_length:], table, flat, weights.reshape(flat.shape))
        return loss, (
            losses.reshape(frames.shape),
            project(hidden, Matrix(variables["params"]["token_table"]), jnp.float32),
        )

    (loss, (losses, logits)), gradients = forward(added, frozen)
    back = layout.slot_of_time()
    frame_logits = logits[:, text_length:].reshape(*frames.shape, -1)[:, back]
    logits = np.concatenate([logits[:, :text_length], frame_logits.reshape(len(text), layout.image_length, -1)], axis=1)
    return dict(
        golden=golden,
        arrays=arrays,
        config=config,
        loss=loss,
        losses=np.asarray(losses)[:, back],
        logits=logits,
        gradients=transformer_names.to_official(
            unflatten_dict({k: np.zeros_like(v) for k, v in frozen.items()} | gradients), config
        ),
    )


def test_logits_equal_the_released_training_model(case, record_property):
    arrays = case["arrays"]
    valid = np.concatenate(
        [arrays["attention_mask_totxt"], np.ones((len(case["logits"]), case["config"].layout.image_length))],
        axis=1,
    ).astype(bool)
    ours, theirs = case["logits"][:, arrays["sel"]], arrays["logits_sel"]
    keep = valid[:, arrays["sel"]]
    difference = largest(ours[keep], theirs[keep])
    columns = arrays["logits_col_first"]
    difference = max(difference, largest(case["logits"][0, :, : columns.shape[1]][valid[0]], columns[valid[0]]))
    record_property("largest_difference", difference)
    print(f"logits {difference:.2e}")
    assert difference < LOGITS


def test_losses_equal_the_released_training_model(case):
    arrays = case["arrays"]
    losses = case["losses"].reshape(len(case["losses"]), -1)
    assert largest(losses, arrays["token_losses"]) < LOGITS
    assert abs(float(case["loss"]) - float(arrays["loss"])) < LOGITS
    logged = [name for name in arrays if name.startswith("log_")]
    assert logged
    for name in logged:
        time = int(name.split("_f")[1].split("_")[0])
        assert abs(case["losses"][:, time].mean() - float(arrays[name])) < LOGITS, name


def test_gradients_of_the_added_parameters_equal_the_release(case):
    arrays, gradients = case["arrays"], case["gradients"]
    worst = 0.0
    for name in case["golden"]["trainable"]:
        ours = gradients[name]
        norm = float(arrays[f"gradnorm:{name}"])
        worst = max(worst, abs(np.linalg.norm(ours) - norm) / norm)
        if f"grad:{name}" in arrays:
            theirs = arrays[f"grad:{name}"]
            worst = max(worst, largest(ours, theirs) / np.abs(theirs).max())
        if f"gradrows:{name}" in arrays:
            theirs = arrays[f"gradrows:{name}"]
            worst = max(worst, largest(ours[::10], theirs) / np.abs(theirs).max())
    print(f"gradients {worst:.2e}")
    assert worst < GRADIENTS


def test_added_parameters_are_those_the_release_trains(case):
    trained = {name for name, g in case["gradients"].items() if np.any(g)}
    assert trained == set(case["golden"]["trainable"])
