"""batches -> parameters: losses, states, steps and the one training loop (paper section 4)."""
