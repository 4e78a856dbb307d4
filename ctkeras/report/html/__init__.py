"""The page's building blocks: tags, charts, words. May import: nothing of the report's other files."""
