"""The parts that `cogvideo train` trains, each as what the one loop needs: step, state, batches, export.

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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cogvideo_jax.data.batches import MakeExample, frame_batches, token_batches
from cogvideo_jax.data.cache import TokenCache
from cogvideo_jax.data.clips import ClipSource
from cogvideo_jax.data.sources import open_source
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo import config as presets
from cogvideo_jax.models.cogvideo.superres.config import from_dict as superres_from_dict
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.training import examples, inherit, superres_step, transformer_step
from cogvideo_jax.models.cogvideo.training.vq_step import init_vq_state, vq_state_shardings, vq_train_step
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, Transformer
from cogvideo_jax.models.cogvideo.vq.config import config_from_dict
from cogvideo_jax.models.cogvideo.vq.networks import abstract_networks
from cogvideo_jax.nn.attention import Kernel, kernel_for
from cogvideo_jax.nn.remat import Remat
from cogvideo_jax.notation import Array, Key, PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.memory import Phase, compile_all, tree_bytes, working_bytes
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.runtime.weights import read_description, save_weights
from cogvideo_jax.training import state as states


class Part:
    """One thing to train. Making it reads no file and fills no memory: `abstract` says what a step will take.

    Attributes:
      step: (state, frozen, batch, rng) -> (state, scalars), jitted with the state donated.
      abstract: what it takes as shapes, types and shardings.
      tokens_per_batch: for tokens a second.
    """

    step: Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], tuple[PyTree, dict]]
    abstract: tuple[PyTree, PyTree, PyTree, PyTree]
    tokens_per_batch: int

    def plan(self) -> Phase:
        """Memory that a step takes; the mesh must be set. The step is compiled, and need not be again."""
        weights = tree_bytes(self.abstract[:2])
        [compiled] = compile_all([self.step.lower(*self.abstract)])
        advice = "lower batch_size, set remat=everything, or give mesh.fsdp more devices"
        return Phase("a training step", weights, working_bytes(compiled, weights), advice=advice)

    def batches(self) -> Any:
        """Iterator of this process's part of the batches; its place can be saved. Raises UserError on unfit data."""
        raise NotImplementedError

    def frozen(self) -> PyTree:
        """Parameters that are only read. Raises UserError if their file is missing or does not fit."""
        raise NotImplementedError

    def first_state(self) -> PyTree:
        """The state at step zero. Raises UserError if what it starts from is missing or does not fit."""
        raise NotImplementedError

    def export(self, state: PyTree, path: Path) -> None:
        """Writes the trained weights."""
        raise NotImplementedError


def build_part(config: ConfigDict, mesh: jax.sharding.Mesh) -> Part:
    """The part that `config.part` names.

    Raises:
      UserError: unknown part, or settings that do not fit together.
    """
    parts = {"tokenizer": TokenizerPart, "superres": SuperResolutionPart, "itersr": SuperResolutionPart}
    if config.part not in {"tokenizer", *MODELS}:
        raise UserError(f"part must be tokenizer, {', '.join(MODELS)}; got {config.part!r}")
    return parts.get(config.part, TransformerPart)(config, mesh)


def build_model(config: ConfigDict, mesh: jax.sharding.Mesh | None = None) -> Backbone:
    """The transformer of every part but the tokenizer.

    Args:
      mesh: of the devices that it will train on, for the fastest attention there; None if only its sizes are wanted.

    Raises:
      UserError: `config.model` has unknown or missing keys, or sizes that do not fit together.
    """
    model, read = MODELS[config.part]
    if config.remat not in list(Remat):
        raise UserError(f"remat must be {', '.join(Remat)}; got {config.remat!r}")
    kernel = Kernel.XLA
    if mesh is not None:
        kernel = kernel_for(config.attention, platform=mesh.devices.flat[0].platform, dtype=config.dtype)
    return model(read(config.model.to_dict()), dtype=config.dtype, remat=Remat(config.remat), kernel=kernel)


class TokenizerPart(Part):
    """Pixels <-> codes."""

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh):
        self.config, self.mesh = config, mesh
        self.sizes = config_from_dict(config.model.to_dict())
        tx = states.make_optimizer(config.optimizer, steps=config.steps)
        size = config.data.size
        frames = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), "uint8", sharding=meshes.batch_sharding(mesh))
        self._init = functools.partial(init_vq_state, self.sizes, tx=tx)
        state = jax.eval_shape(self._init, jax.random.key(0), frames)
        self._sharding = vq_state_shardings(state, meshes.shardings(abstract_networks(self.sizes), mesh), mesh)
        self.abstract = states.placed(state, self._sharding), {}, frames, states.abstract_key(mesh)

        def train_step(state, frozen, frames, rng):
            del frozen
            return vq_train_step(state, frames, rng, config=self.sizes, tx=tx, **config.vq.to_dict())

        self.step = jax.jit(train_step, donate_argnums=0, out_shardings=(self._sharding, meshes.replicated(mesh)))
        self.tokens_per_batch = config.batch_size * (size // self.sizes.rates[0]) ** 2

    def batches(self) -> Any:
        config = self.config
        sizes = dict(batch_size=config.batch_size, frames_per_clip=config.data.frames_per_clip)
        rows = meshes.batch_rows(self.mesh, config.batch_size)
        return frame_batches(self._source, **sizes, seed=config.seed, rows=rows)

    def frozen(self) -> PyTree:
        return {}

    def first_state(self) -> PyTree:
        """The code book starts on latents of the first batch."""
        batch = meshes.put_batch(next(self.batches()), self.mesh)
        return jax.jit(self._init, out_shardings=self._sharding)(jax.random.key(self.config.seed), batch)

    def export(self, state: PyTree, path: Path) -> None:
        tree = {"networks": state.params, "codebook": dict(vars(state.codebook))}
        _save(path, tree, {"kind": "tokenizer", "config": dataclasses.asdict(self.sizes)})

    @functools.cached_property
    def _source(self) -> ClipSource:
        return open_source(**{key: self.config.data[key] for key in SOURCE_KEYS})


class BackbonePart(Part):
    """What all transformers share: which parameters train, the step, how the state is born.

    A subclass says what the parameters start as, what an example is, and which loss is lowered.
    """

    loss: Callable

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh, *, freeze: bool, batch: dict, length: int):
        self.config, self.mesh, self.model = config, mesh, build_model(config, mesh)
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        if config.microbatches < 1 or config.batch_size % (config.microbatches * rows):
            raise UserError(
                f"batch_size {config.batch_size} cannot be cut into {config.microbatches} microbatches for data x fsdp "
                f"= {rows} parts of the mesh"
            )
        tx = states.make_optimizer(config.optimizer, steps=config.steps)
        self._split = states.split_attention_plus if freeze else functools.partial(states.Split, {})
        boxed = inherit.abstract_params(self.model)
        params, shardings = nn.meta.unbox(boxed), meshes.shardings(boxed, mesh)
        (frozen, trained), (frozen_sharding, trained_sharding) = self._split(params), self._split(shardings)
        create = functools.partial(states.TrainState.create, tx=tx)
        state_sharding = states.state_shardings(trained, trained_sharding, tx, mesh)
        self._create = jax.jit(create, out_shardings=state_sharding)
        self.abstract = (
            states.placed(jax.eval_shape(create, trained), state_sharding),
            states.placed(states.stored(frozen, jnp.dtype(config.dtype)), frozen_sharding),
            states.placed(batch, meshes.batch_sharding(mesh)),
            states.abstract_key(mesh),
        )
        settings = dict(model=self.model, tx=tx, loss=type(self).loss, microbatches=config.microbatches)
        step = functools.partial(transformer_step.train_step, **settings)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=(state_sharding, meshes.replicated(mesh)))
        self.tokens_per_batch = config.batch_size * length

    def batches(self) -> Any:
        config, (cache, text) = self.config, self._data
        rows = meshes.batch_rows(self.mesh, config.batch_size)
        return token_batches(cache, self._make_example(text), batch_size=config.batch_size, seed=config.seed, rows=rows)

    def frozen(self) -> PyTree:
        kept = self.abstract[1]
        return inherit.read_params(kept, self._origins()) if kept else kept

    def first_state(self) -> PyTree:
        like = self.abstract[0].trained
        params = inherit.fresh_params(self.model, jax.random.key(self.config.seed), like)
        origins = {path: make for path, make in self._origins().items() if path in flatten_dict(like)}
        inherited = {path: make(flatten_dict(like)[path]) for path, make in origins.items()}
        return self._create(unflatten_dict(flatten_dict(params) | inherited))

    def export(self, state: PyTree, path: Path) -> None:
        description = {"kind": self.config.part, "config": dataclasses.asdict(self.model.config)}
        description["tokenizer"] = self._data[0].fingerprint
        _save(path, state.trained, description)

    def _origins(self) -> inherit.Origins:
        """What comes from files; all else starts fresh."""
        raise NotImplementedError

    def _make_example(self, text: TextTokenizer) -> MakeExample:
        raise NotImplementedError

    @property
    def _data(self) -> tuple[TokenCache, TextTokenizer]:
        raise NotImplementedError


class TransformerPart(BackbonePart):
    """The base, stage 1 and stage 2."""

    loss = transformer_step.loss_and_metrics

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh):
        self.layout = build_model(config).config.layout
        frames = (self.layout.frames, self.layout.frame_tokens)
        batch = _abstract_text(config, self.layout.text_length) | {"frames": _ids(config, *frames)}
        super().__init__(config, mesh, freeze=config.part != "base", batch=batch, length=self.layout.length)

    def _origins(self) -> inherit.Origins:
        config = self.config
        if config.part == "base":
            return {}
        origins = inherit.from_base(config.base, self.model.config)
        return origins | (inherit.from_file(config.added) if config.added else {})

    def _make_example(self, text: TextTokenizer) -> MakeExample:
        example = self.config.example.to_dict()
        return functools.partial(EXAMPLES[self.config.part], text=text, layout=self.layout, **example)

    @functools.cached_property
    def _data(self) -> tuple[TokenCache, TextTokenizer]:
        cache, text = _open_data(self.config, self.model, grid=self.layout.grid)
        _check_lengths(self.config, cache, frames=self.layout.frames)
        return cache, text


class SuperResolutionPart(BackbonePart):
    """Direct and iterative super-resolution."""

    loss = superres_step.loss_and_metrics

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh):
        self.sizes = sizes = build_model(config).config
        masked = jax.ShapeDtypeStruct((config.batch_size, sizes.fine_tokens), bool)
        batch = _abstract_text(config, sizes.text_length) | {"fine": _ids(config, sizes.fine_tokens), "masked": masked}
        if sizes.coarse:
            batch["coarse"] = _ids(config, sizes.coarse.grid**2)
        super().__init__(config, mesh, freeze=not config.train_inherited, batch=batch, length=sizes.length)

    def _origins(self) -> inherit.Origins:
        return inherit.from_base_tiled(self.config.base, self.sizes)

    def _make_example(self, text: TextTokenizer) -> MakeExample:
        return functools.partial(
            examples.fine_example,
            text=text,
            text_length=self.sizes.text_length,
            coarse=self.sizes.coarse is not None,
            **self.config.example.to_dict(),
        )

    @functools.cached_property
    def _data(self) -> tuple[TokenCache, TextTokenizer]:
        cache, text = _open_data(self.config, self.model, grid=self.sizes.fine_grid)
        coarse = self.sizes.coarse
        if coarse and cache.coarse_grid != coarse.grid:
            raise UserError(
                f"the model upscales {coarse.grid} x {coarse.grid} tokens, but the coarse grid of the token cache is "
                f"{cache.coarse_grid}; tokenize with --coarse-size"
            )
        return cache, text


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
        raise UserError(f"the token cache has {cache.grid} x {cache.grid} tokens a frame, the model {grid}")
    if text.vocabulary.boi > model.config.boi:
        raise UserError(
            f"the text model has {text.vocabulary.text_pieces} pieces behind {model.config.image_codes} image codes, "
            f"so boi must be {text.vocabulary.boi} or more; the config has {model.config.boi}"
        )
    made_by = read_description(config.base)[1].get("tokenizer") if "base" in config else None
    if made_by not in (None, cache.fingerprint):
        raise UserError(
            f"{config.base} was trained on codes of the tokenizer {made_by}, and the token cache {config.data.cache} "
            f"holds those of {cache.fingerprint}; tokenize with the tokenizer of the base"
        )
    return cache, text


def _check_lengths(config: ConfigDict, cache: TokenCache, *, frames: int) -> None:
    """Every clip must yield enough frames at the highest rate; found here, not in the middle of a run."""
    if config.part == "base":
        return
    highest, shortest = max(config.example.rates), cache.meta.shortest_seconds
    intervals = (shortest - 1 / cache.meta.top_fps) * highest
    if round(intervals, 3) < frames - 1:
        raise UserError(
            f"the shortest clip lasts {shortest:g} s, too short for {frames} frames at {highest:g} a second; "
            "add a higher rate to example.rates or leave the clip out"
        )


def _ids(config: ConfigDict, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((config.batch_size, *shape), "int32")


def _abstract_text(config: ConfigDict, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"text": _ids(config, length), "text_mask": jax.ShapeDtypeStruct((config.batch_size, length), bool)}


def _save(path: Path, tree: PyTree, description: dict) -> None:
    """Gathers the weights of all processes; the first writes them."""
    whole = meshes.to_host(tree)
    if is_first():
        save_weights(path, whole, description)
