"""Direct and iterative super-resolution of CogView2, coarse ids -> fine ids (20 x 20 -> 60 x 60 in the release)."""
