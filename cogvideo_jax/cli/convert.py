"""`cogvideo convert`: foreign checkpoints to a folder of weights, and back."""

import functools

from cogvideo_jax.cli import family_command

add_arguments = functools.partial(family_command.add_arguments, "convert")
