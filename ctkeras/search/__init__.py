"""Runs a sweep's trials here or as W&B's agent. May import: training, sweep, tracking, models, data, runs and config."""
