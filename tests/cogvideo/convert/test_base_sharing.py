"""The base of several parts is stored once where their files agree, and the user is told where they do not."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.models.cogvideo.sampling_config import RELEASED, write_sampling_config
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS, WeightsFolder
from cogvideo_jax.runtime.weights import load_weights
from tests.cogvideo.convert.checkpoints import assert_same_bits, official, read_sat, write_sat

NAME = "transformer.layers.1.mlp.dense_4h_to_h.weight"


def stage_files(tmp_path, *, change: float | None):
    """SAT folders of two stages; the base of the second differs in one number by `change`."""
    first, second = official("b_train_stage1_full"), official("b_train_stage2_win10")
    arrays = second.arrays | {
        name: array.copy() for name, array in first.arrays.items() if name.startswith("transformer.")
    }
    if change is not None:
        arrays[NAME][63, 255] += change
    one = write_sat(tmp_path / "one", [first.arrays], first.settings)
    return one, write_sat(tmp_path / "two", [arrays], second.settings), arrays


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"pipeline.json", "SHA256SUMS"}


def test_equal_bases_are_stored_once(tmp_path):
    one, two, arrays = stage_files(tmp_path, change=None)
    assert convert(one, tmp_path / "ours").notes == []
    done = convert(two, tmp_path / "ours")
    assert "equal" in done.notes[0] and "shared" in done.notes[0]
    assert files(tmp_path / "ours") == {"base.safetensors", "stage1.safetensors", "stage2.safetensors"}
    assert_same_bits(read_sat(convert_back(tmp_path / "ours", tmp_path / "back", part="stage2")), arrays)


@pytest.mark.parametrize("first", ["stage1", "stage2"])
def test_a_base_that_differs_in_one_number_is_kept_apart(first, tmp_path, capsys):
    one, two, arrays = stage_files(tmp_path, change=1e-6)
    order = [one, two] if first == "stage1" else [two, one]
    other = "stage2" if first == "stage1" else "stage1"
    for source in order:
        assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    assert f"the base of {other} differs" in capsys.readouterr().err
    assert f"{other}_base.safetensors" in files(tmp_path / "ours")
    assert_same_bits(read_sat(convert_back(tmp_path / "ours", tmp_path / "back", part="stage2")), arrays)


def test_a_sign_of_zero_counts_and_a_not_a_number_does_not(tmp_path):
    _, two, arrays = stage_files(tmp_path, change=float("nan"))
    convert(two, tmp_path / "ours")
    again = write_sat(tmp_path / "again", [arrays], official("b_train_stage1_full").settings)
    assert "equal" in convert(again, tmp_path / "ours").notes[0]
    zero, minus = dict(arrays), dict(arrays)
    zero[NAME], minus[NAME] = np.zeros_like(arrays[NAME]), -np.zeros_like(arrays[NAME])
    convert(write_sat(tmp_path / "zero", [zero], official("b_train_stage1_full").settings), tmp_path / "zeros")
    done = convert(
        write_sat(tmp_path / "minus", [minus], official("b_train_stage2_win10").settings), tmp_path / "zeros"
    )
    assert "differs" in done.notes[0]


def test_super_resolution_shares_the_base_of_the_stages_or_keeps_its_own(tmp_path):
    direct = official("e_dsr")
    source = write_sat(tmp_path / "direct", [direct.arrays], direct.settings)
    done = convert(source, tmp_path / "alone")
    assert [path.name for path in done.files] == ["superres_base.safetensors", "superres.safetensors"]
    assert "no" in done.notes[0] and "base.safetensors" in done.notes[0]
    inherited = {name: array for name, array in direct.arrays.items() if name.startswith("transformer.")}
    convert(write_sat(tmp_path / "base", [inherited], direct.settings | {"layout": [64, 464]}), tmp_path / "ours")
    assert "equal" in convert(source, tmp_path / "ours").notes[0]
    assert files(tmp_path / "ours") == {"base.safetensors", "superres.safetensors"}
    for folder in ("alone", "ours"):
        back = convert_back(tmp_path / folder, tmp_path / f"back_{folder}", part="superres")
        assert_same_bits(read_sat(back), direct.arrays)


def test_a_part_that_is_there_is_never_overwritten(tmp_path):
    one, _, _ = stage_files(tmp_path, change=None)
    convert(one, tmp_path / "ours")
    before = (tmp_path / "ours" / "stage1.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"stage1.safetensors exists"):
        convert(one, tmp_path / "ours")
    assert (tmp_path / "ours" / "stage1.safetensors").read_bytes() == before


def test_a_damaged_base_in_the_target_is_refused(tmp_path):
    one, two, _ = stage_files(tmp_path, change=None)
    convert(one, tmp_path / "ours")
    base = tmp_path / "ours" / "base.safetensors"
    base.write_bytes(base.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"base.safetensors is not a safetensors file, or it is damaged"):
        convert(two, tmp_path / "ours")


def test_generation_takes_a_stage_with_its_own_base(tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(DEMO_WEIGHTS, folder)
    sat = convert_back(folder, tmp_path / "sat", part="stage2")
    arrays = read_sat(sat)
    arrays["transformer.word_embeddings.weight"] = arrays["transformer.word_embeddings.weight"] + 1
    settings = json.loads((sat / "model_config.json").read_text())
    (folder / "stage2.safetensors").unlink()
    convert(write_sat(tmp_path / "changed", [arrays], settings), folder)
    write_sampling_config(folder / "pipeline.json", RELEASED, replace=True)
    weights = WeightsFolder(folder)
    tables = {name: weights.stage(name).params["token_table"] for name in ("base", "stage1", "stage2")}
    assert jnp.array_equal(tables["base"], tables["stage1"])
    assert jnp.array_equal(tables["base"] + 1, tables["stage2"])
    assert load_weights(folder / "stage2.safetensors")[1]["own_base"]
    (folder / "stage2_base.safetensors").unlink()
    with pytest.raises(ValueError, match=r"stage2_base.safetensors does not exist"):
        WeightsFolder(folder).stage("stage2")
