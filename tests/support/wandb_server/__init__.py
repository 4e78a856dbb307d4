"""A Weights & Biases server small enough to run inside a test, on loopback and with no account.

Read `server → handler → operations → store`: a request arrives, an operation answers it, the store remembers it.
README.md says what the client sends.
"""

from .server import WandbServer

__all__ = ["WandbServer"]
