"""`python -m cogvideo_jax` is `cogvideo`."""

import sys

from cogvideo_jax.cli.main import main

sys.exit(main())
