"""Sampling of frame ids: jitted loops for key frames (stage 1) and recursive interpolation (stage 2)."""
