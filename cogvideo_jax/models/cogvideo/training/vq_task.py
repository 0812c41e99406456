"""The tokenizer's task: pixels <-> codes."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from cogvideo_jax.data.batches import CLIP_MEMORY, frame_batches, held_out_batches
from cogvideo_jax.data.clips import Clip, ClipSource, ReadableClips
from cogvideo_jax.data.held_out import TrainingClips, held_out_clips
from cogvideo_jax.data.labelled import LABELLED
from cogvideo_jax.data.sources import open_source
from cogvideo_jax.models.cogvideo.training.config import TokenizerConfig
from cogvideo_jax.models.cogvideo.training.vq_step import (
    VQState,
    init_vq_state,
    vq_evaluate,
    vq_state_shardings,
    vq_train_step,
)
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook
from cogvideo_jax.models.cogvideo.vq.networks import abstract_networks
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer
from cogvideo_jax.notation import PyTree, UInt8
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.training import state as states
from cogvideo_jax.training.ema import averaged
from cogvideo_jax.training.export import export
from cogvideo_jax.training.optimizer import make_optimizer
from cogvideo_jax.training.samples import Sample
from cogvideo_jax.training.task import Batches, StepInputs, Task

EVALUATED = ("commitment", "foreground_weight", "background", "window", "scales")  # settings of `vq_evaluate`


class TokenizerTask(Task):
    """Networks learn by gradient, the code book by moving averages."""

    loader_bytes = CLIP_MEMORY

    def __init__(self, config: TokenizerConfig, mesh: jax.sharding.Mesh):
        self.config, self.mesh, sizes = config, mesh, config.model
        tx = make_optimizer(config.optimizer, steps=config.steps, ema=config.ema)
        shape = (config.batch_size, config.data.size, config.data.size, 3)
        frames = jax.ShapeDtypeStruct(shape, "uint8", sharding=meshes.batch_sharding(mesh))
        self._init = functools.partial(init_vq_state, sizes, tx=tx)
        state = jax.eval_shape(self._init, jax.random.key(0), frames)
        self._sharding = vq_state_shardings(state, meshes.shardings(abstract_networks(sizes), mesh), mesh)
        self.abstract = StepInputs(states.placed(state, self._sharding), {}, frames, states.abstract_key(mesh))
        settings = dict(config=sizes, tx=tx, **dataclasses.asdict(config.vq))
        losses = {name: getattr(config.vq, name) for name in EVALUATED}

        def train_step(state, frozen, frames, rng):
            del frozen
            return vq_train_step(state, frames, rng, **settings)

        def evaluate(state, frozen, frames):
            del frozen
            return vq_evaluate(averaged(state.opt_state, state.params), state.codebook, frames, config=sizes, **losses)

        everywhere = meshes.replicated(mesh)
        self.step = jax.jit(train_step, donate_argnums=0, out_shardings=(self._sharding, everywhere))
        self.evaluate = jax.jit(evaluate, out_shardings=everywhere)
        self.tokens_per_batch = config.batch_size * (config.data.size // sizes.rates[0]) ** 2

    def batches(self) -> Batches:
        config = self.config
        sizes = dict(batch_size=config.batch_size, frames_per_clip=config.data.frames_per_clip)
        rows = meshes.batch_rows(self.mesh, config.batch_size)
        clips = TrainingClips(self._source, share=config.validation.held_out)
        return frame_batches(clips, **sizes, seed=config.seed, rows=rows)

    def validation_batches(self) -> list[UInt8[np.ndarray, "b H W 3"]]:
        config = self.config
        most = config.batch_size * config.validation.batches
        clips = held_out_clips(self._source, share=config.validation.share, most=most)
        sizes = dict(batch_size=config.batch_size, batches=config.validation.batches)
        rows = meshes.batch_rows(self.mesh, config.batch_size)
        drawn = held_out_batches(clips, any_frame, **sizes, seed=config.seed, rows=rows)
        return [batch["frame"] for batch in drawn]

    def frozen(self) -> PyTree:
        return {}

    def first_state(self) -> VQState:
        """The code book starts on latents of the first batch."""
        batch = meshes.put_batch(next(self.batches()), self.mesh)
        return jax.jit(self._init, out_shardings=self._sharding)(jax.random.key(self.config.seed), batch)

    def trained(self, state: VQState) -> PyTree:
        return {"networks": state.params, "codebook": dict(vars(state.codebook))}

    def export(self, state: VQState, path: Path) -> None:
        description = {"kind": "tokenizer", "config": dataclasses.asdict(self.config.model)}
        export(path, self._weights(state), description)
        self._source.warn_of_skipped()

    def sample(self, state: VQState) -> list[Sample]:
        """Pictures of two halves: a frame, held out if any are, and its reconstruction."""
        share, count = self.config.validation.held_out, self.config.samples.frames
        clips = ReadableClips(self._source, memory=0)
        if share:
            clips = held_out_clips(self._source, share=share, most=count)
        frames = np.stack([clips[i % len(clips)].frames[0] for i in range(count)])
        weights = meshes.to_host(self._weights(state))
        tokenizer = VQTokenizer(self.config.model, weights | {"codebook": Codebook(**weights["codebook"])})
        again = tokenizer.decode(tokenizer.encode(frames))
        return [Sample(np.concatenate(pair, axis=1)[None], None) for pair in zip(frames, again)]

    def _weights(self, state: VQState) -> PyTree:
        return self.trained(state) | {"networks": averaged(state.opt_state, state.params)}

    @functools.cached_property
    def _source(self) -> ClipSource:
        source = open_frames(self.config)
        source.warn_of_skipped()
        return source


def any_frame(clip: Clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One frame of a clip."""
    return {"frame": clip.frames[rng.integers(len(clip.frames))]}


def open_frames(config: TokenizerConfig) -> ClipSource:
    """The clips that a config names; a drawn set is drawn first."""
    arguments = dataclasses.asdict(config.data)
    del arguments["frames_per_clip"]
    return open_source(**arguments)


def check_files(config: TokenizerConfig) -> None:
    """Reads the captions of a folder of clips; sets that are drawn or downloaded are not made for this."""
    if config.data.name not in ("captioned_motion", *LABELLED):
        open_frames(config)
