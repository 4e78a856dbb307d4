"""Training: a config becomes a run folder. May import: evaluation, models, audit, tracking, data, cpu, runs and config."""
