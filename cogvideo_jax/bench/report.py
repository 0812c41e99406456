"""Figures as they come: a line on the screen for each setting, all of them as JSON where asked."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cogvideo_jax.bench.machine import Machine

WIDTH = 12


def report(
    machine: Machine,
    measure: Callable[..., Any],
    settings: Sequence[Mapping[str, Any]],
    *,
    asked: dict[str, Any],
    out: str | None,
) -> int:
    """Measures every setting; one that does not fit is named and left out. Returns the number of those.

    Args:
      measure: called with each of the settings; returns a NamedTuple whose `cells()` are shown by column.
      asked: the options of the command, for the JSON.
      out: where to write the JSON.
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
        shown = row.cells()
        if not rows:
            print("".join(f"{name:>{WIDTH}}" for name in shown))
        print("".join(f"{value:>{WIDTH}}" for value in shown.values()), flush=True)
        rows.append(row)
    if out:
        figures = {"asked": asked, "machine": machine._asdict(), "rows": [row._asdict() for row in rows]}
        Path(out).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return len(settings) - len(rows)
