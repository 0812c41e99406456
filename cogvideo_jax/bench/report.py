"""Report of a benchmark: one line per setting as it is measured, and optionally JSON."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cogvideo_jax.bench.machine import Machine

WIDTH = 12


class Measured(NamedTuple):
    """One row of a report: figures for JSON, and what is shown of them, by column."""

    figures: dict[str, Any]
    cells: dict[str, str]


def report(
    machine: Machine,
    measure: Callable[..., Measured],
    settings: Sequence[Mapping[str, Any]],
    *,
    asked: dict[str, Any],
    out: str | None,
) -> int:
    """Measures every setting, names those that do not fit, and returns their number.

    Args:
      measure: called with each setting.
      asked: options of the command, for the JSON.
      out: file for the JSON.
    """
    print(machine.describe(), flush=True)
    rows = []
    for setting in settings:
        try:
            row = measure(**setting)
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            name = ", ".join(f"{key} {value}" for key, value in setting.items())
            print(f"cogvideo bench: {name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        shown = row.cells
        if not rows:
            print("".join(f"{name:>{WIDTH}}" for name in shown))
        print("".join(f"{value:>{WIDTH}}" for value in shown.values()), flush=True)
        rows.append(row)
    if out:
        figures = {"asked": asked, "machine": machine._asdict(), "rows": [row.figures for row in rows]}
        Path(out).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return len(settings) - len(rows)
