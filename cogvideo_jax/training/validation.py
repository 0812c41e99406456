"""Loss on held-out clips every N steps, without dropout, always on the same examples."""

import jax
import numpy as np

from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.training.task import Task


def validate(
    task: Task, batches: list[PyTree], state: PyTree, frozen: PyTree, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """Means over the batches, as `validation_loss` and so on; waits for the device."""
    found = jax.device_get([task.evaluate(state, frozen, meshes.put_batch(batch, mesh)) for batch in batches])
    return {f"validation_{name}": float(np.mean([scalars[name] for scalars in found])) for name in found[0]}
