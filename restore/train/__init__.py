"""Training: one loop (`loop`), its data, checkpoints and configuration, and what is trained on it (`prior`)."""
