"""Progress bar on a terminal; silent elsewhere."""

import sys

from tqdm import tqdm


def progress_bar(*, disable: bool = False, **options) -> tqdm:
    """Bar on stderr if that is a terminal, else a silent counter."""
    return tqdm(disable=disable or not sys.stderr.isatty(), dynamic_ncols=True, **options)
