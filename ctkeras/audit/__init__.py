"""What is wrong with a data set: duplicates, leaks, shortcuts. May import: data."""
