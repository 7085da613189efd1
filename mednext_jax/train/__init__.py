"""Training: configuration, loss, optimiser, the jitted step, the loop around it, checkpoints and logs."""
