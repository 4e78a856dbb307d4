"""The files of a run folder: each has one writer and one reader here. Imports nothing of ctkeras but config and runtime."""
