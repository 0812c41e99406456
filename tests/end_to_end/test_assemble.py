"""`cogvideo assemble`: trained parts become a folder of weights."""

import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.runtime.weights import load_weights, save_weights
from cogvideo_jax.text_to_video import load

PROMPT = "a red ball moves to the right"
PARTS = ("tokenizer", "base", "stage1", "stage2", "superres")


@pytest.fixture
def trained(enlarging, tmp_path):
    """Part -> weights as `cogvideo train` writes them; they know their tokenizer."""
    fingerprint = load_tokenizer(enlarging / "tokenizer.safetensors").fingerprint
    files = {}
    for part in PARTS:
        tree, description = load_weights(enlarging / f"{part}.safetensors")
        files[part] = tmp_path / part / "weights.safetensors"
        files[part].parent.mkdir()
        known = {} if part == "tokenizer" else {"tokenizer": fingerprint}
        save_weights(files[part], tree, description | known)
    return files


def assemble(files, source, out, *more) -> int:
    arguments = [text for part, path in files.items() for text in (f"--{part}", str(path))]
    texts = ["--text-model", source / "text.model", "--sampling-config", source / "pipeline.json", "--out", out, *more]
    return main(["assemble", *arguments, *map(str, texts)])


def test_the_parts_make_the_same_videos(trained, enlarging, tmp_path):
    assert assemble(trained, enlarging, tmp_path / "out") == 0
    made, known = (load(folder)(PROMPT, fps=1).frames for folder in (tmp_path / "out", enlarging))
    np.testing.assert_array_equal(made, known)
    assert main(["verify", str(tmp_path / "out")]) == 0 and (tmp_path / "out" / "SHA256SUMS").exists()


def test_a_part_that_trained_what_it_inherits_gets_a_base_of_its_own(trained, enlarging, tmp_path):
    base, own = load_weights(trained["base"])[0], load_weights(trained["superres"])
    changed = jax.tree.map(lambda leaf: leaf + 0.5, base)
    whole = unflatten_dict(flatten_dict(changed) | flatten_dict(own[0]))
    save_weights(trained["superres"], whole, own[1], replace=True)
    assert assemble(trained, enlarging, tmp_path / "out") == 0
    weights = load(tmp_path / "out").sampler.weights
    np.testing.assert_array_equal(weights.stage("superres").params["token_table"], changed["token_table"])
    np.testing.assert_array_equal(weights.stage("stage1").params["token_table"], base["token_table"])
    assert (
        not flatten_dict(load_weights(tmp_path / "out" / "superres.safetensors")[0]).keys() & flatten_dict(base).keys()
    )


@pytest.mark.parametrize(
    "taken, words",
    [(dict(stage1="stage2"), "holds 'stage2', not 'stage1'"), (dict(stage1="stranger"), "of another tokenizer")],
)
def test_parts_that_do_not_belong_together_are_refused(trained, enlarging, tmp_path, capsys, taken, words):
    tree, description = load_weights(trained["stage1"])
    trained["stranger"] = tmp_path / "stranger.safetensors"
    save_weights(trained["stranger"], tree, description | {"tokenizer": "0" * 16}, replace=True)
    files = {part: trained[taken.get(part, part)] for part in PARTS}
    out = tmp_path / "out"
    assert assemble(files, enlarging, out) == 2 and not out.exists()
    assert words in capsys.readouterr().err
    shutil.copytree(enlarging, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    fitting = {part: trained[part] for part in PARTS}
    assert assemble(fitting, enlarging, out) == 2 and "--force" in capsys.readouterr().err
    assert assemble(files, enlarging, out, "--force") == 2 and words in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert assemble(fitting, enlarging, out, "--force") == 0
