"""The training loop: learns, freezes the base, stops on NaN, goes on after any interruption with the same losses."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cogvideo_jax.data.held_out import TrainingClips, is_held_out
from cogvideo_jax.errors import Busy
from cogvideo_jax.models.cogvideo.training.parameters import MATRICES
from cogvideo_jax.models.cogvideo.training.tasks import TASKS
from cogvideo_jax.models.cogvideo.transformer.transformer import is_attention_plus
from cogvideo_jax.runtime import memory
from cogvideo_jax.runtime.files import held
from cogvideo_jax.runtime.weights import load_weights, save_weights
from cogvideo_jax.training import loop
from cogvideo_jax.training.loop import Interrupted
from cogvideo_jax.training.state import count
from cogvideo_jax.training.validation import validate
from tests.training.run import build, train, typed

LONG = dict(steps=30, checkpoint_every=10)  # of a run that learns


def losses(workdir) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def plan(config):
    return loop.plan(typed(config), TASKS[config.part].build)


@pytest.fixture(scope="module")
def base_run(make_config, tmp_path_factory):
    """Folder of a base trained without interruption."""
    folder = tmp_path_factory.mktemp("base")
    train(make_config("base", **LONG), folder)
    return folder


@pytest.fixture(scope="module")
def base(base_run):
    """Its weights."""
    return base_run / "weights.safetensors"


def test_the_base_learns_and_writes_its_figures(base_run, base):
    curve = losses(base_run)
    assert list(curve) == list(range(1, 31)) and curve[30] < curve[1]
    tree, description = load_weights(base)
    assert description["kind"] == "base" and "token_table" in tree


@pytest.mark.parametrize("part", ["stage1", "stage2"])
def test_only_what_cogvideo_adds_is_trained_and_the_base_stays_bit_equal(make_config, tmp_path, base, part):
    built = []

    def remember(config, mesh):
        task = TASKS[part].build(config, mesh)
        read = task.frozen
        task.frozen = lambda: built.append(read()) or built[0]
        return task

    weights, _ = load_weights(loop.train(typed(make_config(part, base=str(base))), tmp_path / part, remember))
    assert all(is_attention_plus(path) for path in flatten_dict(weights))
    frozen = flatten_dict(built[0])
    inherited = flatten_dict(load_weights(base)[0])
    assert set(frozen) == set(inherited)
    for path, leaf in frozen.items():
        assert np.asarray(leaf).tobytes() == inherited[path].tobytes(), path
    assert np.any(weights["layers"]["temporal_alpha"])


def test_the_step_that_was_planned_is_the_one_that_runs_compiled_once(make_config, tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        train(make_config("base", batch_size=6), tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert sum("Compiling jit(train_step)" in line for line in said) == 1


def test_training_that_does_not_fit_is_refused_before_anything_is_read(make_config, tmp_path, monkeypatch):
    config = make_config("base")
    config.data.cache = str(tmp_path / "nothing")
    [phase] = plan(config)
    assert phase.weights > 0 and phase.working > 0
    monkeypatch.setattr(memory, "room", lambda: memory.Room(host=2**40, device=10_000, devices=1))
    with pytest.raises(ValueError, match=r"a training step needs .* lower batch_size, set remat=everything"):
        loop.train(typed(config), tmp_path / "run", TASKS["base"].build)


def test_a_second_run_in_one_workdir_is_refused_and_changes_nothing(make_config, tmp_path):
    with held(tmp_path), pytest.raises(Busy, match="another process is writing to"):
        train(make_config("base"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_recomputing_activations_takes_less_memory(make_config):
    kept, again = (plan(make_config("base", batch_size=64, remat=remat))[0] for remat in ("nothing", "everything"))
    assert again.weights == kept.weights and again.working < kept.working


def test_a_stage_starts_from_the_base_as_the_paper_says(make_config, tmp_path, base):
    config = make_config("stage1", base=str(base))
    weights = jax.device_get(build(config).first_state().trained)
    inherited, _ = load_weights(base)
    added = weights["layers"]["temporal"]
    np.testing.assert_array_equal(added["qkv_kernel"], inherited["layers"]["spatial"]["qkv_kernel"])
    assert np.any(added["out_kernel"] != inherited["layers"]["spatial"]["out_kernel"])
    assert not np.any(weights["layers"]["temporal_alpha"])
    first_frame = inherited["position_table"][12:16]
    np.testing.assert_array_equal(weights["extra_positions"], np.tile(first_frame, (4, 1)))


@pytest.mark.parametrize("muon", [False, True])
def test_optimizer_state_exists_for_trained_parameters_only(make_config, tmp_path, base, muon):
    config = make_config("stage1", base=str(base))
    config.optimizer.muon = muon
    state = build(config).first_state()
    moments = count([leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim])
    matrices = [leaf for path, leaf in flatten_dict(state.trained).items() if path[-1] in MATRICES]
    constants = 3  # of Muon's iteration
    assert moments == 2 * count(state.trained) + muon * (constants - count(matrices))


def test_stopping_and_starting_again_gives_the_same_losses(make_config, tmp_path, monkeypatch, base_run):
    asked_at = 5
    steps = loop._finite

    def interrupt(pending):
        if pending[-1][0] == asked_at:
            os.kill(os.getpid(), signal.SIGINT)
        return steps(pending)

    monkeypatch.setattr(loop, "_finite", interrupt)
    with pytest.raises(Interrupted, match="step 6"):
        train(make_config("base", **LONG), tmp_path / "broken")
    monkeypatch.undo()
    assert max(losses(tmp_path / "broken")) == 6
    train(make_config("base", **LONG), tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(base_run)


def test_held_out_clips_are_validated_and_never_trained_on(make_config, tmp_path, monkeypatch, cache):
    config = make_config("base", steps=5, log_every=10, validation=dict(every=2, batches=2, share=0.3))
    config.model.dropout = 0.5
    task = build(config)
    state, frozen, batches = task.first_state(), task.frozen(), task.validation_batches()
    first, again = (validate(task, batches, state, frozen, task.mesh) for _ in range(2))
    assert first == again and first["validation_loss"] > 0  # no dropout, the same examples
    train(config, tmp_path)
    lines = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert all({"loss", "validation_loss", "validation_nats_per_frame"} < line.keys() for line in lines)
    held = {row for row in range(len(cache)) if is_held_out(cache[row].name, 0.3)}
    read = {clip.name for clip in TrainingClips(cache, share=0.3)}
    assert held and read.isdisjoint(cache[row].name for row in held)


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(make_config, tmp_path):
    config = make_config("base")
    config.optimizer.update(learning_rate=1e12, weight_decay=1e12)
    with pytest.raises(FloatingPointError, match=r"the \w+( norm)? of step \d+ is"):
        train(config, tmp_path)


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "update_norm"])
def test_a_step_with_any_figure_that_is_no_number_is_never_saved(name):
    steps = [(7, {"loss": 1.0, "gradient_norm": 2.0, "update_norm": 3.0}), (8, {"loss": 1.0})]
    assert loop._finite(steps) == {"loss": 1.0}
    steps[0][1][name] = float("nan")
    with pytest.raises(FloatingPointError, match=f"the {name.replace('_', ' ')} of step 7 is nan"):
        loop._finite(steps)


def test_a_base_of_another_size_is_refused(make_config, tmp_path, base):
    config = make_config("stage1", base=str(base))
    config.model.mlp_width = 64
    with pytest.raises(ValueError, match="does not fit"):
        train(config, tmp_path / "other")


def test_an_unknown_model_key_is_refused(make_config, tmp_path):
    config = make_config("base")
    config.model.depth = 3
    with pytest.raises(ValueError, match="depth"):
        train(config, tmp_path)


def test_a_text_model_of_another_vocabulary_is_refused(make_config, tmp_path):
    config = make_config("base")
    config.model.boi = 3
    with pytest.raises(ValueError, match="boi"):
        train(config, tmp_path)


def test_a_base_of_another_tokenizer_is_refused(make_config, tmp_path, base):
    tree, description = load_weights(base)
    save_weights(tmp_path / "other.safetensors", tree, description | {"tokenizer": "another"})
    config = make_config("stage1", base=str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"codes of the tokenizer another, and the token cache .* holds those of none"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(microbatches=3), "batch_size 4 cannot be cut into 3 microbatches"),
        (dict(remat="some"), "remat is 'some'; it should be 'nothing', 'all_but_matrices' or 'everything'"),
        (dict(attention="fast"), "attention is 'fast'; it should be 'auto', "),
        (dict(steps=2), "warmup_steps=2 must be fewer than steps=2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_config, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        train(make_config("base", **changes), tmp_path)


def test_weights_that_are_no_base_are_refused(make_config, tmp_path, base):
    task, stage = build(make_config("stage1", base=str(base))), tmp_path / "stage.safetensors"
    task.export(task.first_state(), stage)
    with pytest.raises(ValueError, match="does not fit this model: it has no positions 12 to 15"):
        train(make_config("stage1", base=str(stage)), tmp_path / "again")
