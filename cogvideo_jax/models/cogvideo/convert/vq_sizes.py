"""Sizes of a released image tokenizer, read off its names and shapes, because the file does not state them.

In: official name -> shape. Out: VQConfig. Settings that shapes do not show (groups of the norms, mean and deviation of
the pixels) are the release's.
"""

import dataclasses
import itertools

from cogvideo_jax.models.cogvideo.vq.config import OFFICIAL, VQConfig

Shapes = dict[str, tuple[int, ...]]
MOST = 16  # largest plausible number of levels, blocks or decoders


def vq_sizes(shapes: Shapes) -> VQConfig:
    """Configuration of a tokenizer. Raises KeyError, IndexError or ValueError if the names are not those of one."""
    channels, levels = shapes["enc.conv_in.weight"][0], _count(shapes, "enc.down")
    decoders = [f"decs.{index}" for index in reversed(range(_count(shapes, "decs")))]  # lowest rate first
    highest = [shapes[f"{decoder}.conv_out.weight"][1] for decoder in decoders]
    codes, code_width = shapes["quantize.embed.weight"]
    return dataclasses.replace(
        OFFICIAL,
        rates=tuple(2 ** (levels - 1 + index) for index in range(len(decoders))),
        codebook_size=codes,
        code_width=code_width,
        latent_channels=shapes["enc.conv_out.weight"][0],
        encoder_channels=channels,
        encoder_multipliers=_multipliers(shapes, "enc.down", levels, channels),
        encoder_res_blocks=_count(shapes, "enc.down.0.block"),
        encoder_attention="enc.mid.attn_1.q.weight" in shapes,
        decoder_channels=highest[0],
        decoder_multipliers=tuple(
            _multipliers(shapes, f"{decoder}.up", _count(shapes, decoder + ".up"), highest[0]) for decoder in decoders
        ),
        decoder_res_blocks=_count(shapes, decoders[0] + ".up.0.block"),
        decoder_attention=f"{decoders[0]}.mid.attn_1.q.weight" in shapes,
        decoder_lowest_attention=tuple(
            f"{decoder}.up.{_count(shapes, decoder + '.up') - 1}.attn.0.q.weight" in shapes for decoder in decoders
        ),
    )


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of names prefix.0, prefix.1, prefix.2, ... without a gap."""
    numbers = {name[len(prefix) + 1 :].split(".")[0] for name in shapes if name.startswith(prefix + ".")}
    count = next(n for n in itertools.count() if str(n) not in numbers)
    if not 0 < count <= MOST:
        raise ValueError(f"{count} of {prefix}")
    return count


def _multipliers(shapes: Shapes, prefix: str, levels: int, channels: int) -> tuple[int, ...]:
    """Width of each level in units of the first; decoders also number their levels from the highest resolution."""
    widths = [shapes[f"{prefix}.{level}.block.0.conv2.weight"][0] for level in range(levels)]
    return tuple(width // channels for width in widths)
