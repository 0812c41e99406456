"""Task whose parameters all learn by gradient, some or none of them beside others that are only read."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Key, PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.training import state as states
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.init_from import Origins, fresh_params, read_known_params, read_params
from cogvideo_jax.training.optimizer import Matrices, make_optimizer
from cogvideo_jax.training.state import Split, TrainState, all_trained
from cogvideo_jax.training.step import Loss, evaluate, train_step
from cogvideo_jax.training.task import StepInputs, Task


@dataclasses.dataclass(frozen=True)
class Learner:
    """A model as a GradientTask sees it.

    Attributes:
      init: key -> all parameters, boxed with their logical axes.
      loss: (params, batch, key of dropout or None) -> (loss, scalars).
      split: parameters -> those that are only read, and those that train.
      stored: shapes of the parameters that are only read -> the same in the types in which they are kept.
      matrices: parameters that Muon orthogonalises.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    loss: Loss
    split: Callable[[PyTree], Split] = all_trained
    stored: Callable[[PyTree], PyTree] = lambda shapes: shapes
    matrices: Matrices = dataclasses.field(default_factory=dict)


class GradientTask(Task):
    """A subclass adds batches, samples, export and, where parameters come from files, `origins`."""

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        *,
        learner: Learner,
        batch: Mapping[str, jax.ShapeDtypeStruct],
        microbatches: int = 1,
    ):
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        if config.batch_size % (microbatches * rows):
            raise UserError(
                f"batch_size {config.batch_size} cannot be cut into {microbatches} microbatches for data x fsdp "
                f"= {rows} parts of the mesh"
            )
        self.config, self.mesh, self.learner = config, mesh, learner
        tx = make_optimizer(config.optimizer, steps=config.steps, matrices=learner.matrices, ema=config.ema)
        boxed = jax.eval_shape(learner.init, jax.random.key(0))
        params, shardings = learner.split(nn.meta.unbox(boxed)), learner.split(meshes.shardings(boxed, mesh))
        create = functools.partial(TrainState.create, tx=tx)
        sharding = states.state_shardings(params.trained, shardings.trained, tx, mesh)
        self._create = jax.jit(create, out_shardings=sharding)
        self.abstract = StepInputs(
            states.placed(jax.eval_shape(create, params.trained), sharding),
            states.placed(learner.stored(params.frozen), shardings.frozen),
            states.placed(dict(batch), meshes.batch_sharding(mesh)),
            states.abstract_key(mesh),
        )
        step = functools.partial(train_step, loss=learner.loss, tx=tx, microbatches=microbatches)
        self.evaluate = jax.jit(functools.partial(evaluate, loss=learner.loss), out_shardings=meshes.replicated(mesh))
        self.step = jax.jit(step, donate_argnums=0, out_shardings=(sharding, meshes.replicated(mesh)))

    def origins(self) -> Origins:
        """Parameters that come from files; the rest of those that train start fresh."""
        return {}

    def frozen(self) -> PyTree:
        kept = self.abstract.frozen
        return read_params(kept, self.origins()) if kept else kept

    def first_state(self) -> TrainState:
        like = self.abstract.state.trained
        fresh = fresh_params(self.learner.init, jax.random.key(self.config.seed), like)
        known = read_known_params(like, self.origins())
        return self._create(unflatten_dict(flatten_dict(fresh) | flatten_dict(known)))
