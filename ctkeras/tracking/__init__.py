"""Weights & Biases; the only folder that imports wandb. May import: runs and config."""
