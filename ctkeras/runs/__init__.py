"""The run folder, which all verbs share: one reader and one writer per file. May import: runtime and config."""
