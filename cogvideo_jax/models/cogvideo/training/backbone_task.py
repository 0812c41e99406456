"""Tasks of the transformers: the base, stage 1, stage 2, direct and iterative super-resolution."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from cogvideo_jax.data.batches import Example, MakeExample, held_out_batches, token_batches
from cogvideo_jax.data.held_out import TrainingClips, held_out_clips
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.training import examples, superres_loss, transformer_loss
from cogvideo_jax.models.cogvideo.training.config import BackboneConfig, StageConfig, SuperResolutionTraining
from cogvideo_jax.models.cogvideo.training.inherit import from_base, from_base_tiled
from cogvideo_jax.models.cogvideo.training.parameters import MATRICES, abstract_params, split_attention_plus, stored
from cogvideo_jax.models.cogvideo.training.samples import check_samples, sample_clips
from cogvideo_jax.models.cogvideo.training.token_data import OpenData, open_data
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, Transformer
from cogvideo_jax.nn.attention import Kernel, kernel_for
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.training.ema import averaged
from cogvideo_jax.training.export import export
from cogvideo_jax.training.gradient_task import GradientTask, Learner
from cogvideo_jax.training.init_from import Origins, check_complete, check_shapes, from_file
from cogvideo_jax.training.samples import Sample
from cogvideo_jax.training.state import Split, TrainState, all_trained
from cogvideo_jax.training.task import Batches

MODELS = {"superres": DirectSuperResolution, "itersr": IterativeSuperResolution}
EXAMPLES = {
    "base": examples.base_example,
    "stage1": examples.keyframe_example,
    "stage2": examples.interpolation_example,
}


class BackboneTask(GradientTask):
    """A transformer on examples of a token cache."""

    config: BackboneConfig

    def __init__(self, config: BackboneConfig, mesh: jax.sharding.Mesh):
        self.model = build_model(config, mesh)
        self.tokens_per_batch = config.batch_size * _length(config)
        batch, microbatches = _abstract_batch(config), config.microbatches
        super().__init__(config, mesh, learner=_learner(config, self.model), batch=batch, microbatches=microbatches)

    def origins(self) -> Origins:
        return origins(self.config)

    def batches(self) -> Batches:
        config, (cache, text) = self.config, self._data
        rows = meshes.batch_rows(self.mesh, config.batch_size)
        clips = TrainingClips(cache, share=config.validation.held_out)
        make = make_example(config, text)
        return token_batches(clips, make, batch_size=config.batch_size, seed=config.seed, rows=rows)

    def validation_batches(self) -> list[Example]:
        """As small as the microbatches of training, so that they fit into the same memory."""
        config, (cache, text) = self.config, self._data
        size, count = config.batch_size // config.microbatches, config.validation.batches * config.microbatches
        clips = held_out_clips(cache, share=config.validation.share, most=size * count)
        rows, make = meshes.batch_rows(self.mesh, size), make_example(config, text)
        return held_out_batches(clips, make, batch_size=size, batches=count, seed=config.seed, rows=rows)

    def export(self, state: TrainState, path: Path) -> None:
        export(path, averaged(state.opt_state, state.trained), self._description)

    def sample(self, state: TrainState) -> list[Sample]:
        trained = meshes.to_host(averaged(state.opt_state, state.trained))
        return sample_clips(self.config, trained, self._description)

    @property
    def _description(self) -> dict:
        sizes, fingerprint = dataclasses.asdict(self.config.model), self._data.cache.fingerprint
        return {"kind": self.config.part, "config": sizes, "tokenizer": fingerprint}

    @functools.cached_property
    def _data(self) -> OpenData:
        check_samples(self.config)
        return open_data(self.config)


def build_model(config: BackboneConfig, mesh: jax.sharding.Mesh | None = None) -> Backbone:
    """The transformer of a config.

    Args:
      mesh: of the devices that it will train on, for the fastest attention there; None if only its sizes are wanted.
    """
    kernel = Kernel.BLOCKED
    if mesh is not None:
        platform, fused = mesh.devices.flat[0].platform, config.part not in MODELS
        kernel = kernel_for(config.attention, platform=platform, dtype=config.dtype, fused=fused)
    model = MODELS.get(config.part, Transformer)
    return model(config.model, dtype=config.dtype, remat=config.remat, kernel=kernel)


def check_files(config: BackboneConfig) -> None:
    """Opens the files that a config names; reads no arrays and no clips. Raises UserError if they do not fit."""
    open_data(config)
    check_samples(config)
    known, shapes = origins(config), _split(config)(nn.meta.unbox(abstract_params(build_model(config))))
    check_complete(shapes.frozen, known)
    check_shapes(shapes.trained, known)


def origins(config: BackboneConfig) -> Origins:
    """Parameters that come from files; all others start fresh."""
    if isinstance(config, SuperResolutionTraining):
        return from_base_tiled(config.base, config.model)
    if isinstance(config, StageConfig):
        earlier = from_file(config.attention_plus) if config.attention_plus else {}
        return from_base(config.base, config.model) | earlier
    return {}


def make_example(config: BackboneConfig, text: TextTokenizer) -> MakeExample:
    """(clip, rng) -> example of a config's part."""
    settings = vars(config.example) | {"text": text}
    if isinstance(config, SuperResolutionTraining):
        sizes = dict(text_length=config.model.text_length, coarse=config.model.coarse is not None)
        return functools.partial(examples.fine_example, **settings, **sizes)
    return functools.partial(EXAMPLES[config.part], **settings, layout=config.model.layout)


def _learner(config: BackboneConfig, model: Backbone) -> Learner:
    loss = superres_loss if isinstance(config, SuperResolutionTraining) else transformer_loss
    return Learner(
        init=lambda rng: model.init(rng, *model.empty_inputs())["params"],
        loss=functools.partial(loss.loss_and_metrics, model=model),
        split=_split(config),
        stored=functools.partial(stored, dtype=jnp.dtype(config.dtype)),
        matrices=MATRICES,
    )


def _split(config: BackboneConfig) -> Callable[[PyTree], Split]:
    return all_trained if config.all_trained else split_attention_plus


def _length(config: BackboneConfig) -> int:
    sizes = config.model
    return sizes.length if isinstance(sizes, SuperResolutionConfig) else sizes.layout.length


def _abstract_batch(config: BackboneConfig) -> dict[str, jax.ShapeDtypeStruct]:
    sizes = config.model

    def rows(*shape: int, dtype="int32"):
        return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)

    if isinstance(sizes, SuperResolutionConfig):
        fine = dict(fine=rows(sizes.fine_tokens), masked=rows(sizes.fine_tokens, dtype=bool))
        images = fine | (dict(coarse=rows(sizes.coarse.grid**2)) if sizes.coarse else {})
        length = sizes.text_length
    else:
        layout = sizes.layout
        images, length = dict(frames=rows(layout.frames, layout.frame_tokens)), layout.text_length
    return dict(text=rows(length), text_mask=rows(length, dtype=bool)) | images
