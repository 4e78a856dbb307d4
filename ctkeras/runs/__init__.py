"""The run folder, through which all verbs speak: one reader and one writer per file. May import: runtime and config."""
