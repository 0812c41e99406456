"""Parameters of a task as a table for the log."""

import jax

from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.memory import gib
from cogvideo_jax.training.state import count
from cogvideo_jax.training.task import Task


def parameter_table(task: Task) -> str:
    """Name, shape, number, bytes and whether it trains, of every parameter; totals below."""
    trees = {"trained": task.trained(task.abstract.state), "frozen": task.abstract.frozen}
    rows = [
        (name, "x".join(map(str, leaf.shape)) or "scalar", f"{leaf.size:,}", f"{_bytes(leaf):,}", kind)
        for kind, tree in trees.items()
        for name, leaf in _named(tree)
    ]
    rows += [(f"all {kind}", "", f"{count(tree):,}", gib(_bytes(tree)), kind) for kind, tree in trees.items()]
    head = ("parameter", "shape", "numbers", "bytes", "")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    left = (True, True, False, False, True)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if on_left else cell.rjust(width) for cell, width, on_left in zip(row, widths, left)
        )
        for row in [head, *rows]
    )


def _named(tree: PyTree) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _bytes(tree: PyTree) -> int:
    """Of all devices together, each counted once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
