"""Backbones, the classifier and the exported file. May import: data, cpu and runs."""
