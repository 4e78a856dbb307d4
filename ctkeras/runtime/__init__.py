"""The process: terminal, files, versions, XLA. May import: errors."""
