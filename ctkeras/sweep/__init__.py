"""The sweep file: read it, check it, make the next one. May import: runs and config."""
