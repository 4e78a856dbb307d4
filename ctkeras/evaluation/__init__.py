"""Metrics with intervals, comparison of models, Grad-CAM. May import: audit, models, data and runs."""
