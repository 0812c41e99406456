"""Files of JSON lines that grow as work is done."""

import json
from pathlib import Path

from absl import logging


def read_lines(path: Path) -> list[dict]:
    """Readable JSON lines of an earlier run; a kill may have truncated the last one."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            logging.warning("%s: dropped a damaged line", path)
    return lines
