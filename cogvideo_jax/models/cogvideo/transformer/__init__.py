"""ids -> logits: the two-channel transformer of CogVideo (paper sections 3.1-3.3) and its cached form."""
