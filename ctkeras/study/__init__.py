"""A study: three phases in one command. May import: search, sweep, evaluation, training, tracking, runs and config."""
