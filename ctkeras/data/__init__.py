"""From a zip or a folder to batches of images. May import: runtime."""
