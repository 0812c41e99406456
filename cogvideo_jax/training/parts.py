"""The parts that `cogvideo train` trains, each as what the one loop needs: state, step, batches, export.

| part      | learns                        | from                             | starts from             |
|-----------|-------------------------------|----------------------------------|-------------------------|
| tokenizer | pixels <-> codes              | frames of clips                  | random                  |
| base      | text -> one frame             | cached ids, one frame            | random                  |
| stage1    | attention-plus for key frames | cached ids, lowest frame rate    | base                    |
| stage2    | attention-plus between frames | cached ids, several frame rates  | base (and stage 1's)    |
| superres  | coarse -> fine ids at once    | cached fine and coarse ids       | base                    |
| itersr    | gaps in fine ids              | cached fine ids                  | base                    |
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cogvideo_jax.data import examples
from cogvideo_jax.data.clips import open_source
from cogvideo_jax.data.pipeline import frame_batches, token_batches
from cogvideo_jax.data.tokenize import TokenCache
from cogvideo_jax.model import config as presets
from cogvideo_jax.model.transformer import Backbone, Transformer
from cogvideo_jax.notation import Array, Key, PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.weights import load_weights, save_weights
from cogvideo_jax.superres.config import from_dict as superres_from_dict
from cogvideo_jax.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.tokens.text import TextTokenizer
from cogvideo_jax.tokens.vq_networks import config_from_dict
from cogvideo_jax.training import state as states
from cogvideo_jax.training import superres_step, transformer_step
from cogvideo_jax.training.vq_step import init_vq_state, vq_train_step


class Part(NamedTuple):
    """One thing to train.

    Attributes:
      state: at step zero, on the devices.
      frozen: parameters that steps read and never change.
      step: (state, frozen, batch, rng) -> (state, scalars), jitted with the state donated.
      batches: iterator of host batches whose place can be saved.
      tokens_per_batch: for tokens a second.
      export: (state, path) -> writes the trained weights.
    """

    state: PyTree
    frozen: PyTree
    step: Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], tuple[PyTree, dict]]
    batches: Any
    tokens_per_batch: int
    export: Callable[[PyTree, Path], None]


def build_part(config: ConfigDict, mesh: jax.sharding.Mesh) -> Part:
    """The part that `config.part` names.

    Raises:
      ValueError: unknown part, or settings that do not fit together.
    """
    if config.part == "tokenizer":
        return _tokenizer(config, mesh)
    if config.part in ("base", "stage1", "stage2"):
        return _transformer(config, mesh)
    if config.part in ("superres", "itersr"):
        return _super_resolution(config, mesh)
    raise ValueError(f"part must be tokenizer, {', '.join(MODELS)}; got {config.part!r}")


def build_model(config: ConfigDict) -> Backbone:
    """The transformer of every part but the tokenizer.

    Raises:
      ValueError: `config.model` has unknown or missing keys, or sizes that do not fit together.
    """
    model, read = MODELS[config.part]
    return model(read(config.model.to_dict()), dtype=config.dtype, remat=config.remat)


def _tokenizer(config: ConfigDict, mesh: jax.sharding.Mesh) -> Part:
    vq_config = config_from_dict(config.model.to_dict())
    tx = states.make_optimizer(config.optimizer, steps=config.steps)
    make = functools.partial(
        frame_batches,
        open_source(**{key: config.data[key] for key in SOURCE_KEYS}),
        batch_size=config.batch_size,
        frames_per_clip=config.data.frames_per_clip,
        seed=config.seed,
        **_processes(),
    )
    first = next(iter(make()))
    rng = jax.random.key(config.seed)
    init = functools.partial(init_vq_state, vq_config, tx=tx)

    def step(state, frozen, frames, rng):
        del frozen
        return vq_train_step(state, frames, rng, config=vq_config, tx=tx, **config.vq.to_dict())

    def export(state, path):
        tree = {"networks": state.params, "codebook": dict(vars(state.codebook))}
        save_weights(path, jax.device_get(tree), {"kind": "tokenizer", "config": dataclasses.asdict(vq_config)})

    return Part(
        state=jax.jit(init, out_shardings=meshes.replicated(mesh))(rng, first),
        frozen={},
        step=jax.jit(step, donate_argnums=0, out_shardings=meshes.replicated(mesh)),
        batches=make(),
        tokens_per_batch=config.batch_size * (config.data.size // vq_config.rates[0]) ** 2,
        export=export,
    )


def _transformer(config: ConfigDict, mesh: jax.sharding.Mesh) -> Part:
    model = build_model(config)
    layout = model.config.layout
    cache, text = _open_data(config, model, grid=layout.grid)
    _check_lengths(config, cache, frames=layout.frames)
    params = states.init_params(model, jax.random.key(config.seed), mesh)
    if config.part != "base":
        params = states.inherit_base(params, load_weights(config.base)[0], model)
        if config.added:
            added = flatten_dict(load_weights(config.added)[0])
            params = unflatten_dict(flatten_dict(params) | added)
    make_example = functools.partial(EXAMPLES[config.part], text=text, layout=layout, **config.example.to_dict())
    return _trained_part(
        config,
        mesh,
        model=model,
        params=params,
        freeze=config.part != "base",
        loss=transformer_step.loss_and_metrics,
        make_example=make_example,
        cache=cache,
        length=layout.length,
    )


def _super_resolution(config: ConfigDict, mesh: jax.sharding.Mesh) -> Part:
    model = build_model(config)
    sizes = model.config
    cache, text = _open_data(config, model, grid=sizes.fine_grid)
    if sizes.coarse and cache.coarse_grid != sizes.coarse.grid:
        raise ValueError(
            f"the model enlarges {sizes.coarse.grid} x {sizes.coarse.grid} tokens, but the coarse grid of the token "
            f"cache is {cache.coarse_grid}; tokenize with --coarse-size"
        )
    base, description = load_weights(config.base)
    params = superres_step.inherit_fine(
        states.init_params(model, jax.random.key(config.seed), mesh),
        base,
        base_config=presets.from_dict(description.get("config")),
        config=sizes,
    )
    make_example = functools.partial(
        examples.fine_example,
        text=text,
        text_length=sizes.text_length,
        coarse=sizes.coarse is not None,
        **config.example.to_dict(),
    )
    return _trained_part(
        config,
        mesh,
        model=model,
        params=params,
        freeze=not config.train_inherited,
        loss=superres_step.loss_and_metrics,
        make_example=make_example,
        cache=cache,
        length=sizes.length,
    )


def _trained_part(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    *,
    model: Backbone,
    params: PyTree,
    freeze: bool,
    loss: Callable,
    make_example: Callable,
    cache: TokenCache,
    length: int,
) -> Part:
    """The part of a transformer whose parameters stand ready; `freeze` trains only what is added to the base."""
    tx = states.make_optimizer(config.optimizer, steps=config.steps)
    shardings = meshes.shardings(states.abstract_params(model), mesh)
    split = states.split_added if freeze else functools.partial(states.Split, {})
    (frozen, trained), (frozen_sharding, trained_sharding) = split(params), split(shardings)
    state_sharding = states.state_shardings(trained, trained_sharding, tx, mesh)
    create = jax.jit(functools.partial(states.TrainState.create, tx=tx), out_shardings=state_sharding)
    step = functools.partial(transformer_step.train_step, model=model, tx=tx, loss=loss)

    def export(state, path):
        description = {"kind": config.part, "config": dataclasses.asdict(model.config)}
        save_weights(path, jax.device_get(state.trained), description | {"tokenizer": cache.fingerprint})

    return Part(
        state=create(jax.device_put(trained, trained_sharding)),
        frozen=jax.device_put(frozen, frozen_sharding),
        step=jax.jit(step, donate_argnums=0, out_shardings=(state_sharding, meshes.replicated(mesh))),
        batches=token_batches(cache, make_example, batch_size=config.batch_size, seed=config.seed, **_processes()),
        tokens_per_batch=config.batch_size * length,
        export=export,
    )


SOURCE_KEYS = ("name", "size", "data_dir", "train_clips", "test_clips")
EXAMPLES = {
    "base": examples.base_example,
    "stage1": examples.keyframe_example,
    "stage2": examples.interpolation_example,
}


MODELS = {
    "base": (Transformer, presets.from_dict),
    "stage1": (Transformer, presets.from_dict),
    "stage2": (Transformer, presets.from_dict),
    "superres": (DirectSuperResolution, superres_from_dict),
    "itersr": (IterativeSuperResolution, superres_from_dict),
}


def _open_data(config: ConfigDict, model: Backbone, *, grid: int) -> tuple[TokenCache, TextTokenizer]:
    """Token cache and text model, after making sure that the model can read their ids."""
    cache = TokenCache(config.data.cache)
    text = TextTokenizer.from_file(config.data.text_model, image_codes=model.config.image_codes)
    if cache.grid != grid:
        raise ValueError(f"the token cache has {cache.grid} x {cache.grid} tokens a frame, the model {grid}")
    if text.vocabulary.boi > model.config.boi:
        raise ValueError(
            f"the text model has {text.vocabulary.text_pieces} pieces behind {model.config.image_codes} image codes, "
            f"so boi must be {text.vocabulary.boi} or more; the config has {model.config.boi}"
        )
    return cache, text


def _check_lengths(config: ConfigDict, cache: TokenCache, *, frames: int) -> None:
    """Every clip must yield enough frames at the highest rate; found here, not in the middle of a run."""
    if config.part == "base":
        return
    highest, shortest = max(config.example.rates), cache.meta["shortest_seconds"]
    intervals = (shortest - 1 / cache.meta["top_fps"]) * highest
    if round(intervals, 3) < frames - 1:
        raise ValueError(
            f"the shortest clip lasts {shortest:g} s, too short for {frames} frames at {highest:g} a second; "
            "add a higher rate to example.rates or leave the clip out"
        )


def _processes() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
