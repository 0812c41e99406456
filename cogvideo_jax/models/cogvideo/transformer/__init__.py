"""The two-channel transformer of CogVideo (paper sections 3.1-3.3), token ids -> logits, and its cached form."""
