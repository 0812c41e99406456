"""Coarse ids -> fine ids (20 x 20 -> 60 x 60 in the release): CogView2's direct and iterative super-resolution."""
