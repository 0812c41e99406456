"""A diffusers snapshot as it is downloaded; arrays are loaded when a step needs them.

model_index.json                        the class of the pipeline, which tells the task
transformer/, vae/                      config.json, and safetensors files with an index if there are several
text_encoder/, tokenizer/spiece.model   T5
scheduler/scheduler_config.json         the noise schedule
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from cogvideo_jax.convert.shards import Shards
from cogvideo_jax.convert.torch_part import Storage, TorchPart
from cogvideo_jax.diffusion.schedules import Schedule
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Lora
from cogvideo_jax.models.cogvideox.clip import RATIO, STEP
from cogvideo_jax.models.cogvideox.config import TransformerConfig
from cogvideo_jax.models.cogvideox.transformer import Transformer
from cogvideo_jax.models.cogvideox.vae import Vae
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.attention import kernel_for
from cogvideo_jax.nn.lora import LoraFile, merged, read_lora
from cogvideo_jax.nn.quantized import quantize, scale_sharding
from cogvideo_jax.nn.t5 import T5Config, T5Encoder
from cogvideo_jax.nn.t5_text import T5Text
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.schemas import STRICT, Text, dataclass_schema, read_json, shown

INDEX = "model_index.json"
TEXT, TRANSFORMER, VAE = "text_encoder", "transformer", "vae"
FROM_TEXT, FROM_IMAGE, FROM_VIDEO = (
    "CogVideoXPipeline",
    "CogVideoXImageToVideoPipeline",
    "CogVideoXVideoToVideoPipeline",
)
TASKS = (FROM_TEXT, FROM_IMAGE, FROM_VIDEO)
BLOCKS = {TEXT: "encoder.block.", TRANSFORMER: "transformer_blocks."}  # of which the config tells the number
QUANTIZED = ("/attn1/", "/ff/", "/SelfAttention/", "/DenseReluDense/")  # modules whose matrices can be int8
LORA_PREFIX = "transformer."
Beta = Annotated[float, Field(strict=True, gt=0, lt=1)]


@dataclass_schema(STRICT | {"extra": "ignore"})
class PipelineIndex:
    """`model_index.json`."""

    class_name: Annotated[Text, Field(alias="_class_name")]


@dataclass_schema(STRICT | {"extra": "ignore"})
class SchedulerConfig:
    """`scheduler_config.json`; only what is released can be set."""

    snr_shift_scale: Annotated[float, Field(strict=True, ge=0.01, le=100)]
    beta_start: Beta
    beta_end: Beta
    num_train_timesteps: Annotated[int, Field(strict=True, ge=2, le=10_000)]
    beta_schedule: Literal["scaled_linear"]
    prediction_type: Literal["v_prediction"]
    rescale_betas_zero_snr: bool
    set_alpha_to_one: bool
    timestep_spacing: Literal["trailing"]
    clip_sample: Literal[False]
    trained_betas: None = None

    def __post_init__(self):
        if self.beta_start > self.beta_end:
            raise UserError(f"beta_start {self.beta_start} is above beta_end {self.beta_end}")

    def schedule(self) -> Schedule:
        """The schedule that it describes."""
        return Schedule(
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.snr_shift_scale,
            self.rescale_betas_zero_snr,
            self.set_alpha_to_one,
        )


class Snapshot:
    """Opens a folder and checks that its parts fit; loads no array yet.

    Args:
      dtype: compute and storage type; None for float32 on a CPU, else bfloat16.
      keep: keep the transformer and the autoencoder on the device; T5 is always let go.
      int8: store the large matrices of T5 and the transformer as int8, with a scale for every output channel.

    Raises:
      UserError: something is missing, damaged or does not fit.
    """

    def __init__(self, folder: str | Path, *, dtype: Any = None, keep: bool = True, int8: bool = False):
        self.folder, self.keep = Path(folder), keep
        platform = meshes.platform()
        self.dtype = jnp.dtype(dtype or (jnp.float32 if platform == "cpu" else jnp.bfloat16))
        self.task, self.schedule = read_task(self.folder), read_schedule(self.folder)
        self.text = read_text(self.folder)
        kernel = kernel_for("auto", platform=platform, dtype=self.dtype)
        self.transformer = Transformer(read_transformer(self.folder), dtype=self.dtype, kernel=kernel)
        self.vae = Vae(read_vae(self.folder), dtype=self.dtype)
        self.encoder = T5Encoder(read_encoder(self.folder), dtype=self.dtype)
        self._require_agreement()
        self.parts = {
            name: self._part(name, init, storage_of(name, self.dtype, int8=int8))
            for name, init in self._inits().items()
        }
        self._loaded: dict[tuple, PyTree] = {}

    def params(self, part: str, loras: Sequence[Lora] = ()) -> PyTree:
        """Parameters of a part on the device, with the changes of LoRA files merged into them.

        What is not needed beside them is let go first: T5, and without `keep` everything else.
        """
        wanted = part, tuple(loras)
        for held in [held for held in self._loaded if held != wanted]:
            if not self.keep or held[0] in (TEXT, part):
                del self._loaded[held]
        if wanted not in self._loaded:
            changes = [(self.lora(lora), lora.scale) for lora in loras]
            self._loaded[wanted] = self.parts[part].load(functools.partial(changed_by, changes))
        return self._loaded[wanted]

    def release(self, part: str) -> None:
        """Lets a part go."""
        for held in [held for held in self._loaded if held[0] == part]:
            del self._loaded[held]

    def lora(self, lora: Lora) -> LoraFile:
        """An opened file of changes of the transformer. Raises UserError if it does not fit."""
        return read_lora(Path(lora.path), self._matrices, prefix=LORA_PREFIX)

    @functools.cached_property
    def _matrices(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the transformer's matrices by their torch names."""
        return {
            name: leaf.shape for name, leaf in self.parts[TRANSFORMER].tensors.leaves.items() if len(leaf.shape) == 2
        }

    def _inits(self) -> dict[str, Callable[[jax.Array], PyTree]]:
        """Part -> what makes its parameters."""
        text = lambda rng: self.encoder.init(rng, jnp.zeros((1, 2), jnp.int32))  # noqa: E731
        return {TEXT: text, TRANSFORMER: self._init_transformer, VAE: self._init_vae}

    def _part(self, name: str, init: Callable[[jax.Array], PyTree], storage: Storage) -> TorchPart:
        copies = ("encoder.embed_tokens.weight",)  # of the table that T5 shares with the decoder it once had
        tensors = Shards(self.folder / name)
        self._require_blocks(name, tensors)
        return TorchPart(lambda rng: init(rng)["params"], tensors, storage=storage, ignored=lambda name: name in copies)

    def _init_transformer(self, rng: jax.Array) -> PyTree:
        return self.transformer.init(rng, *self.transformer.empty_inputs(), **self.transformer.empty_options())

    def _init_vae(self, rng: jax.Array) -> PyTree:
        side = self.vae.config.spatial_ratio
        return self.vae.init(rng, jnp.zeros((1, 1, side, side, self.vae.config.in_channels)))

    def _require_blocks(self, part: str, tensors: Shards) -> None:
        """Raises UserError if the config tells another number of blocks, before that many are traced."""
        if part not in BLOCKS:
            return
        start = BLOCKS[part]
        there = {name.removeprefix(start).split(".")[0] for name in tensors.leaves if name.startswith(start)}
        told = {TEXT: self.encoder, TRANSFORMER: self.transformer}[part].config.num_layers
        if len(there) != told:
            raise UserError(
                f"{_config_of(self.folder, part)}: num_layers is {told}, but the files hold {len(there)}; "
                "download the folder again"
            )

    def _require_agreement(self) -> None:
        """Raises UserError if the parts are not of one model."""
        config, where = self.transformer.config, self.folder
        if self.encoder.config.d_model != config.text_embed_dim:
            raise UserError(
                f"{where}: the transformer reads text states of {config.text_embed_dim} features, but its text encoder "
                f"makes {self.encoder.config.d_model}"
            )
        if self.text.pieces > self.encoder.config.vocab_size:
            raise UserError(
                f"{where}: the tokenizer has {self.text.pieces} pieces, but the text encoder's table has "
                f"{self.encoder.config.vocab_size}"
            )
        self._require_ratios()
        latents, factor = self.vae.config.latent_channels, 2 if self.task == FROM_IMAGE else 1
        if config.out_channels != latents or config.in_channels != factor * latents:
            raise UserError(
                f"{where}: a {self.task} with latents of {latents} channels needs a transformer that reads "
                f"{factor * latents} and writes {latents}, not {config.in_channels} and {config.out_channels}"
            )

    def _require_ratios(self) -> None:
        """Raises UserError unless pixels become latents, and latents tokens, as they do in every release."""
        config, vae = self.transformer.config, self.vae.config
        told = _config_of(self.folder, TRANSFORMER)
        if vae.spatial_ratio != RATIO:
            raise UserError(
                f"{_config_of(self.folder, VAE)}: block_out_channels has {len(vae.block_out_channels)} levels, so that "
                f"a latent stands for {vae.spatial_ratio} pixels to a side; it should be {RATIO}"
            )
        if config.temporal_compression_ratio != vae.temporal_compression_ratio:
            raise UserError(
                f"{told}: temporal_compression_ratio is {config.temporal_compression_ratio}, but the autoencoder's is "
                f"{vae.temporal_compression_ratio}"
            )
        if RATIO * config.patch_size != STEP:
            raise UserError(f"{told}: patch_size is {config.patch_size}; it should be {STEP // RATIO}")


def read_task(folder: Path) -> str:
    """The class of the pipeline. Raises UserError for one that is not supported."""
    path = folder / INDEX
    found = read_json(path, PipelineIndex).class_name
    if found not in TASKS:
        raise UserError(f"{path}: {shown(found)} is not supported; known are {', '.join(TASKS)}")
    return found


def read_schedule(folder: Path) -> Schedule:
    """The noise schedule. Raises UserError for one that no release of CogVideoX has."""
    return read_json(folder / "scheduler" / "scheduler_config.json", SchedulerConfig).schedule()


def read_text(folder: Path) -> T5Text:
    """The text model. Raises UserError if it is missing or damaged."""
    return T5Text.from_file(folder / "tokenizer" / "spiece.model")


def read_transformer(folder: Path) -> TransformerConfig:
    """Sizes of the transformer. Raises UserError for what is not supported, as the next two do."""
    return read_json(_config_of(folder, TRANSFORMER), TransformerConfig)


def read_vae(folder: Path) -> VaeConfig:
    """Sizes of the autoencoder."""
    return read_json(_config_of(folder, VAE), VaeConfig)


def read_encoder(folder: Path) -> T5Config:
    """Sizes of the text encoder."""
    return read_json(_config_of(folder, TEXT), T5Config)


def _config_of(folder: Path, part: str) -> Path:
    return folder / part / "config.json"


def changed_by(changes: Sequence[tuple[LoraFile, float]], name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor with the changes of all files."""
    for lora, strength in changes:
        change = lora.change(name)
        if change is not None:
            tensor = merged(tensor, change, scale=lora.scale * strength)
    return tensor


def storage_of(part: str, dtype: Any, *, int8: bool) -> Storage:
    """How a part is kept; the autoencoder is never int8."""
    return Storage(dtype, _as_int8, _int8_sharding) if int8 and part != VAE else Storage(dtype)


def _as_int8(path: str, leaf: jax.Array) -> dict[str, jax.Array]:
    """Int8 leaves in place of the large matrices."""
    module, _, name = path.rpartition("/")
    if name != "kernel" or not any(part in f"{path}/" for part in QUANTIZED):
        return {path: leaf}
    return {f"{module}/{own}": x for own, x in quantize(name, leaf).items()}


def _int8_sharding(path: str, matrix: Any) -> Any:
    return scale_sharding("kernel", matrix) if path.endswith("_scale") else matrix
