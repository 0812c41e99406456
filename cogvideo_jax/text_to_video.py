"""The door: prompt -> video."""

from cogvideo_jax.models.cogvideo.pipeline import DEMO_WEIGHTS, TextToVideo

__all__ = ["DEMO_WEIGHTS", "TextToVideo"]
