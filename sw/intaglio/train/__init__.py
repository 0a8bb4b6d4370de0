"""Integer training: update, loop, checkpoints."""
