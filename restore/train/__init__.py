"""Training: one loop (`loop`), its data, checkpoints and configuration; what learns in it: `prior`, `classifier`."""
