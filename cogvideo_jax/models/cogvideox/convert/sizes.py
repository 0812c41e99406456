"""Sizes of the authors' models from the shapes of their tensors, and what is said of each in a snapshot.

Shapes tell the variant: the width of the patches, whether there is a position table, whether it reads an image's
latents. What they do not tell (the size of the clips, groups of norms) is that of the released variant.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.models.cogvideox.config import RELEASED, TWO_B, TransformerConfig
from cogvideo_jax.models.cogvideox.convert.names import SAT_PREFIX
from cogvideo_jax.models.cogvideox.convert.snapshot_files import CLASSES, DDIM, VERSION
from cogvideo_jax.models.cogvideox.snapshot import FROM_IMAGE, FROM_TEXT, TRANSFORMER, VAE, SchedulerConfig
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.runtime.safetensors_stream import Leaf
from cogvideo_jax.runtime.schemas import check

TABLE = f"{SAT_PREFIX}mixins.pos_embed.pos_embedding"
OFS = f"{SAT_PREFIX}ofs_embed.0.weight"
LAYER = re.compile(re.escape(SAT_PREFIX) + r"transformer\.layers\.(\d+)\..+")
VAE_BLOCK = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.conv\.weight")
MOST_LEVELS = 8  # of a VAE; the released one has 4
ASK = "pass its config.json with --config"


# The transformer ------------------------------------------------------------------------------------


def transformer_config(leaves: Mapping[str, Leaf], *, source: object) -> TransformerConfig:
    """Dimensions of a transformer from its tensors in a SAT file.

    Raises:
      UserError: a tensor that tells a size is missing, or sizes do not fit together or leave something open.
    """
    shape = _Shapes(leaves, source)
    patch = shape.of(f"{SAT_PREFIX}mixins.patch_embed.proj.weight", 2, 4)
    width, deep = patch[0], len(patch) == 2
    side, frames = (2, 2) if deep else (patch[2], 1)
    out = shape.of(f"{SAT_PREFIX}mixins.final_layer.linear.weight", 2)[0]
    head = shape.of(f"{SAT_PREFIX}mixins.adaln_layer.query_layernorm_list.0.weight", 1)[0]
    time = shape.of(f"{SAT_PREFIX}time_embed.0.weight", 2)[0]
    with conversion_errors(f"{source} is not a transformer of CogVideoX: its sizes do not fit together"):
        area = frames * side**2
        sizes = dict(
            num_attention_heads=width // head,
            attention_head_dim=head,
            in_channels=patch[1] // area if deep else patch[1],
            out_channels=out // area,
            num_layers=len({found[1] for name in leaves if (found := LAYER.fullmatch(name))}),
            time_embed_dim=time,
            ofs_embed_dim=time if OFS in leaves else None,
            text_embed_dim=shape.of(f"{SAT_PREFIX}mixins.patch_embed.text_proj.weight", 2)[1],
            patch_size=side,
        )
    kind = _kind(leaves, inputs=sizes["in_channels"], outputs=sizes["out_channels"], deep=deep, source=source)
    config = check(dataclasses.asdict(kind) | sizes, TransformerConfig, where=f"the sizes of {source}")
    _require_known_table(config, leaves, source)
    return config


def _kind(leaves: Mapping[str, Leaf], *, inputs: int, outputs: int, deep: bool, source: object) -> TransformerConfig:
    """The released transformer that one is like, whatever their sizes. 2B stores the table that diffusers computes."""
    if inputs not in (outputs, 2 * outputs):
        raise ConversionError(
            f"{source} reads {inputs} channels and writes {outputs}; expected as many, or twice as many with an image"
        )
    with_image = "-I2V" if inputs > outputs else ""
    if deep:
        return RELEASED[f"CogVideoX1.5-5B{with_image}"]
    if not with_image and TABLE in leaves:
        return TWO_B
    kind = RELEASED[f"CogVideoX-5B{with_image}"]
    return dataclasses.replace(kind, use_learned_positional_embeddings=TABLE in leaves)


def _require_known_table(config: TransformerConfig, leaves: Mapping[str, Leaf], source: object) -> None:
    """Raises ConversionError if a table of the weights is for clips that its number of rows does not tell."""
    if TABLE in leaves and config.adds_table:
        frames, rows, columns = config.sample_grid
        expected = config.max_text_seq_length + frames * rows * columns
        if leaves[TABLE].shape[1:2] != (expected,):
            raise ConversionError(
                f"{source} has a position table of shape {leaves[TABLE].shape}, which does not tell the size of its "
                f"clips as {expected} rows would; {ASK}"
            )


def released_name(config: TransformerConfig) -> str:
    """Name of a released transformer, or what another is called in notes."""
    return next((name for name, one in RELEASED.items() if one == config), "a model that is no release")


def reads_image(config: TransformerConfig) -> bool:
    """Whether it is for image to video."""
    return config.in_channels > config.out_channels


def pipeline_class(config: TransformerConfig) -> str:
    """Of diffusers."""
    return FROM_IMAGE if reads_image(config) else FROM_TEXT


def transformer_file(config: TransformerConfig) -> dict[str, Any]:
    """`config.json` of a transformer."""
    own = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    return _head(TRANSFORMER) | own | {"dropout": 0.0, "patch_bias": config.patch_size_t is None}


# The scheduler and the VAE --------------------------------------------------------------------------


def scheduler_file(config: TransformerConfig) -> dict[str, Any]:
    """`scheduler_config.json` that goes with a transformer."""
    return {
        "_class_name": DDIM,
        "_diffusers_version": VERSION,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "snr_shift_scale": 1.0 if config.use_rotary_positional_embeddings else 3.0,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
        "trained_betas": None,
    }


def scheduler_config(config: TransformerConfig) -> SchedulerConfig:
    """The same, as a snapshot's is read."""
    return check(scheduler_file(config), SchedulerConfig, where="the released scheduler")


def latent_scaling(config: TransformerConfig) -> dict[str, Any]:
    """What a VAE's config says of the latents that a transformer reads."""
    scaling = 0.7 if config.use_rotary_positional_embeddings else VaeConfig.scaling_factor
    return dict(scaling_factor=scaling, invert_scale_latents=config.patch_size_t is not None)


def vae_config(leaves: Mapping[str, Leaf], transformer: TransformerConfig, *, source: object) -> VaeConfig:
    """Dimensions of a VAE from its tensors.

    Raises:
      UserError: a tensor that tells a size is missing, or the sizes leave something open.
    """
    shape = _Shapes(leaves, source)
    blocks = [(int(found[1]), int(found[2])) for name in leaves if (found := VAE_BLOCK.fullmatch(name))]
    levels = len({level for level, _ in blocks})
    if not 1 <= levels <= MOST_LEVELS:
        raise ConversionError(f"{source} is not a VAE of CogVideoX: its encoder has {levels} levels")
    widths = tuple(shape.of(f"encoder.down.{i}.block.0.conv1.conv.weight", 5)[0] for i in range(levels))
    if any(width % VaeConfig.norm_num_groups for width in widths):
        raise ConversionError(f"{source} has widths {widths}, which do not tell the groups of its norms; {ASK}")
    told = dict(
        block_out_channels=widths,
        layers_per_block=len({block for level, block in blocks if level == 0}),
        latent_channels=shape.of("encoder.conv_out.conv.weight", 5)[0] // 2,
        in_channels=shape.of("encoder.conv_in.conv.weight", 5)[1],
        out_channels=shape.of("decoder.conv_out.conv.weight", 5)[0],
    )
    return check(told | latent_scaling(transformer), VaeConfig, where=f"the sizes of {source}")


def vae_file(config: VaeConfig) -> dict[str, Any]:
    """`config.json` of a VAE."""
    own, levels = dataclasses.asdict(config), len(config.block_out_channels)
    own |= {"norm_eps": own.pop("eps"), "act_fn": "silu"}
    own |= {f"{way.lower()}_block_types": [f"CogVideoX{way}Block3D"] * levels for way in ("Down", "Up")}
    return _head(VAE) | own


def _head(part: str) -> dict[str, Any]:
    return {"_class_name": CLASSES[part][1], "_diffusers_version": VERSION}


class _Shapes:
    """Shapes of tensors that tell sizes."""

    def __init__(self, leaves: Mapping[str, Leaf], source: object):
        self._leaves, self._source = leaves, source

    def of(self, name: str, *axes: int) -> tuple[int, ...]:
        """A shape. Raises ConversionError unless it is there with one of these numbers of axes, none of them empty."""
        shape = self._leaves[name].shape if name in self._leaves else ()
        if len(shape) not in axes or not all(shape):
            found = f"the shape {shape} of" if name in self._leaves else "no"
            raise ConversionError(f"{self._source} has {found} {name}, which should tell the sizes of the model")
        return shape
