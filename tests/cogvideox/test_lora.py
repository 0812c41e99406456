"""LoRA files: merged weights and scales equal those of peft; what does not fit is refused in one sentence."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.convert.names import SAT_PREFIX, sat_lora_name
from cogvideo_jax.nn.lora import METADATA, LoraFile, lora_of, merged, read_lora
from cogvideo_jax.runtime.safetensors_stream import Leaf
from tests.cogvideox.goldens import FOLDER, load

CONFIG, ARRAYS = load("x_lora")
PLAIN, META = (FOLDER / f"x_lora_{name}.safetensors" for name in ("plain", "meta"))
PREFIX = "transformer."
WEIGHTS = {name.removeprefix("param:"): value for name, value in ARRAYS.items() if name.startswith("param:")}
SHAPES = {name: value.shape for name, value in WEIGHTS.items() if value.ndim == 2}
TO_Q = "transformer_blocks.0.attn1.to_q.weight"
KEY_A, KEY_B = (f"{PREFIX}{TO_Q.removesuffix('.weight')}.lora_{factor}.weight" for factor in "AB")


def opened(path) -> LoraFile:
    return read_lora(path, SHAPES, prefix=PREFIX)


def written(folder, changed: dict[str, np.ndarray | None] | None = None, settings: dict | str | None = None):
    """The plain file with other tensors, None to leave one out, and settings in its header."""
    tensors = load_file(PLAIN) | (changed or {})
    text = json.dumps({f"{PREFIX}{key}": value for key, value in settings.items()}) if settings else None
    path = folder / "changed.safetensors"
    save_file(
        {key: value for key, value in tensors.items() if value is not None}, path, {METADATA: text} if text else None
    )
    return path


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        opened(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


# Numbers ------------------------------------------------------------------------------------------


def test_merged_weights_equal_those_of_peft_exactly():
    lora, compared = opened(PLAIN), 0
    for name, expected in ARRAYS.items():
        if name.startswith("merged_plain:"):
            matrix = name.removeprefix("merged_plain:")
            out = merged(WEIGHTS[matrix], lora.change(matrix), scale=lora.scale)
            assert out.dtype == np.float32
            np.testing.assert_array_equal(out, expected)
            compared += 1
    assert compared


def test_a_file_without_metadata_has_scale_one():
    assert opened(PLAIN).scale == 1.0


def test_metadata_give_the_scale_alpha_by_rank():
    assert opened(META).scale == CONFIG["alpha"] / CONFIG["rank"]


def test_exactly_the_matrices_in_the_file_change():
    for path, name in ((PLAIN, "plain"), (META, "meta")):
        keys = CONFIG["names"][name]["keys"]
        changed = {re.sub(r"lora_[AB]\.", "", key.removeprefix(PREFIX)) for key in keys}
        assert {matrix for matrix in SHAPES if opened(path).change(matrix) is not None} == changed


def test_the_change_is_the_product_of_the_factors():
    tensors = load_file(PLAIN)
    change = opened(PLAIN).change(TO_Q)
    np.testing.assert_allclose(change, tensors[KEY_B].astype(np.float64) @ tensors[KEY_A], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_are_rounded_once(dtype):
    weight, change = WEIGHTS[TO_Q].astype(dtype), opened(PLAIN).change(TO_Q)
    out = merged(weight, change, scale=0.7)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, merged(weight.astype(np.float32), change, scale=0.7).astype(dtype))


def test_factors_may_be_bfloat16(tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.astype(ml_dtypes.bfloat16) for key, value in load_file(PLAIN).items()}, path)
    change = opened(path).change(TO_Q)
    assert change.dtype == np.float32
    exact = opened(PLAIN).change(TO_Q)
    np.testing.assert_allclose(change, exact, rtol=0, atol=0.02 * np.abs(exact).max())


def test_ranks_may_differ_between_matrices(tmp_path):
    outputs, inputs = SHAPES[TO_Q]
    path = written(tmp_path, {KEY_A: np.ones((1, inputs), np.float32), KEY_B: np.ones((outputs, 1), np.float32)})
    np.testing.assert_array_equal(opened(path).change(TO_Q), np.ones((outputs, inputs)))


# Metadata -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, scale", [({"use_rslora": True}, 6 / CONFIG["rank"] ** 0.5), ({"peft_type": "LORA", "new": [1]}, None)]
)
def test_settings_of_the_adapter_change_the_scale_and_unknown_ones_do_not(tmp_path, settings, scale):
    path = written(tmp_path, settings={"r": CONFIG["rank"], "lora_alpha": 6} | settings)
    assert opened(path).scale == (scale or 6 / CONFIG["rank"])


def test_metadata_of_another_part_are_ignored(tmp_path):
    assert opened(written(tmp_path, settings={"other": 3})).scale == 1.0


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"use_dora": True}, "use_dora is true"),
        ({"rank_pattern": {"to_q": 8}}, "ranks or alphas of single matrices"),
        ({"alpha_pattern": {"to_q": 8}}, "ranks or alphas of single matrices"),
        ({"r": CONFIG["rank"] + 1}, f"r is {CONFIG['rank'] + 1}, but the file has matrices of rank {CONFIG['rank']}"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4'; it should be a whole number"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_alpha": None}, "lora_alpha is None"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, sentence):
    path = written(tmp_path, settings={"r": CONFIG["rank"], "lora_alpha": 2} | settings)
    assert sentence in refusal(path)


def test_a_rank_without_an_alpha_is_refused(tmp_path):
    assert "lacks the key lora_alpha" in refusal(written(tmp_path, settings={"r": CONFIG["rank"]}))


def test_metadata_that_are_no_json_are_refused(tmp_path):
    path = tmp_path / "changed.safetensors"
    save_file(load_file(PLAIN), path, {METADATA: "{"})
    assert "is not valid JSON" in refusal(path)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        KEY_A.removeprefix(PREFIX),
        KEY_A.replace("lora_A", "lora.down"),
        KEY_A.replace("lora_A.weight", "alpha"),
        KEY_A.replace("transformer.", "text_encoder.", 1),
        KEY_A.replace("lora_A", "lora_C"),
    ],
)
def test_an_unknown_key_is_refused(tmp_path, key):
    sentence = refusal(written(tmp_path, {key: load_file(PLAIN)[KEY_A]}))
    assert f"has the unknown key '{key}'" in sentence and f"expected {PREFIX}<matrix>.lora_A.weight" in sentence


@pytest.mark.parametrize("matrix", ["transformer_blocks.999.attn1.to_q", "patch_embed.proj", "norm_final"])
def test_a_matrix_that_the_model_lacks_is_refused(tmp_path, matrix):
    key = f"{PREFIX}{matrix}.lora_A.weight"
    assert f"changes '{matrix}.weight', which is no matrix" in refusal(written(tmp_path, {key: np.ones((2, 2))}))


@pytest.mark.parametrize("gone, missing", [(KEY_A, "A"), (KEY_B, "B")])
def test_half_a_pair_is_refused(tmp_path, gone, missing):
    assert f"has no {missing} beside it" in refusal(written(tmp_path, {gone: None}))


@pytest.mark.parametrize("key, axis", [(KEY_A, 1), (KEY_B, 0), (KEY_B, 1)])
def test_another_width_is_refused(tmp_path, key, axis):
    found = load_file(PLAIN)[key]
    shape = tuple(size + (i == axis) for i, size in enumerate(found.shape))
    sentence = refusal(written(tmp_path, {key: np.zeros(shape, np.float32)}))
    assert f"has the shape {shape}; expected {found.shape}" in sentence


@pytest.mark.parametrize("shape", [(), (4,), (0, SHAPES[TO_Q][1]), (2, 2, 2)])
def test_what_is_no_matrix_is_refused(tmp_path, shape):
    assert f"has the shape {shape}; expected (" in refusal(written(tmp_path, {KEY_A: np.zeros(shape, np.float32)}))


def test_whole_numbers_are_refused(tmp_path):
    found = load_file(PLAIN)[KEY_A]
    assert "is int32; expected float16" in refusal(written(tmp_path, {KEY_A: found.astype(np.int32)}))


def test_numbers_that_are_not_finite_are_refused_when_they_are_read(tmp_path):
    path = written(tmp_path, {KEY_A: np.full_like(load_file(PLAIN)[KEY_A], np.nan)})
    with pytest.raises(UserError, match=r"changed\.safetensors is damaged: .*to_q\.lora_A"):
        opened(path).change(TO_Q)


def test_an_empty_file_and_a_damaged_one_are_refused(tmp_path):
    empty, damaged = tmp_path / "empty.safetensors", tmp_path / "damaged.safetensors"
    save_file({}, empty)
    damaged.write_bytes(PLAIN.read_bytes()[:-1])
    assert "is empty" in refusal(empty)
    assert "damaged" in refusal(damaged)


# Files of SAT -------------------------------------------------------------------------------------


def sat_keys() -> dict[str, str]:
    """Key of SAT -> key of the plain file."""
    places = {"to_q": ("query_key_value", 0), "to_k": ("query_key_value", 1), "to_v": ("query_key_value", 2)}
    places["to_out.0"] = ("dense", 0)
    keys = {}
    for key in CONFIG["names"]["plain"]["keys"]:
        layer, matrix, factor = re.fullmatch(rf"{PREFIX}\w+\.(\d+)\.attn1\.(.+)\.lora_(.)\.weight", key).groups()
        name, part = places[matrix]
        keys[f"{SAT_PREFIX}transformer.layers.{layer}.attention.{name}.matrix_{factor}.{part}"] = key
    return keys


def test_tensors_of_sat_change_the_same_matrices():
    tensors, plain = load_file(PLAIN), opened(PLAIN)
    sat = {name: tensors[key] for name, key in sat_keys().items()}
    leaves = {name: Leaf(array.dtype, array.shape) for name, array in sat.items()}
    lora = lora_of(
        leaves, sat.__getitem__, shapes=SHAPES, prefix=SAT_PREFIX, rename=sat_lora_name, scale=0.25, source="lora.pt"
    )
    assert lora.scale == 0.25 and lora.factors.keys() == plain.factors.keys()
    for name in plain.factors:
        np.testing.assert_array_equal(lora.change(name), plain.change(name))


def test_an_unknown_tensor_of_sat_is_refused():
    key = f"{SAT_PREFIX}transformer.layers.0.mlp.dense_h_to_4h.weight"
    leaf = Leaf(np.dtype(np.float32), (2, 2))
    with pytest.raises(UserError, match=r"lora\.pt has the unknown key .*which start with model\.diffusion_model\."):
        lora_of(
            {key: leaf}, {}.get, shapes=SHAPES, prefix=SAT_PREFIX, rename=sat_lora_name, scale=1.0, source="lora.pt"
        )
