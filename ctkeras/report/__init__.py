"""Pages for a browser. May import: evaluation, audit, models, tracking, data, runs and config."""
