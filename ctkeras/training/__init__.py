"""One run, from hyperparameters to run folder. Imports config, runtime, runs, data, models, tracking and metrics; no search."""
