"""Command-line verbs: parse, call one function, print. May import: everything."""
