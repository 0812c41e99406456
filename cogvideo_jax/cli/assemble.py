"""`cogvideo assemble`: trained parts become one folder of weights."""

import functools

from cogvideo_jax.cli import family_command

add_arguments = functools.partial(family_command.add_arguments, "assemble")
