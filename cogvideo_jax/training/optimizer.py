"""AdamW or Muon with warm-up, a cosine schedule and gradient clipping."""

from collections.abc import Mapping

import optax
import optax.contrib
from flax.traverse_util import flatten_dict, unflatten_dict
from optax.contrib import MuonDimensionNumbers

from cogvideo_jax.notation import PyTree
from cogvideo_jax.training.config import OptimizerConfig
from cogvideo_jax.training.ema import average_params

Matrices = Mapping[str, MuonDimensionNumbers]  # last name of a leaf -> axes of its input and output
ADAM_RMS = 0.2  # root mean square of AdamW's steps, in learning rates


def make_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Warm-up, then a cosine down to `final_fraction` of the peak."""
    return optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(
    config: OptimizerConfig, *, steps: int, matrices: Matrices | None = None, ema: float = 0.0
) -> optax.GradientTransformation:
    """AdamW with gradient clipping; norms and biases are not decayed (as in the 2022 script).

    With `config.muon` the matrices of the layers take orthogonalised steps (Muon; Jordan 2024), as large as those of
    AdamW (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both; tables, norms and biases take
    those of Adam with Nesterov's momentum and are not decayed.

    Args:
      matrices: leaves that Muon orthogonalises; those of any other name take Adam's steps.
      ema: decay of the average of the weights that the state then holds, too; 0 for none.
    """
    schedule = make_schedule(config, steps=steps)
    common = dict(eps=config.eps, weight_decay=config.weight_decay)
    if config.muon:  # Differs from the 2022 code: 1,300 steps took a demo base where AdamW took it in 3,700
        names = matrices or {}
        betas = dict(adam_b1=config.b1, adam_b2=config.b2)
        dimensions = dict(muon_weight_dimension_numbers=lambda params: _by_name(params, names.get))
        descent = optax.contrib.muon(schedule, **common, **betas, **dimensions, consistent_rms=ADAM_RMS)
    else:
        descent = optax.adamw(schedule, **common, b1=config.b1, b2=config.b2, mask=_decays)
    average = [average_params(ema)] if ema else []
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), descent, *average)


def _by_name(params: PyTree, value) -> PyTree:
    return unflatten_dict({path: value(path[-1]) for path in flatten_dict(params)})


def _decays(params: PyTree) -> PyTree:
    return unflatten_dict({path: _is_decayed(path) for path in flatten_dict(params)})


def _is_decayed(path: tuple[str, ...]) -> bool:
    return "bias" not in path[-1] and not any(name.startswith("norm") for name in path)
