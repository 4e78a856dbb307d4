"""A Weights & Biases server small enough to run inside a test, on loopback and with no account.

Read `server → graphql → store`: a request comes in, an operation answers it, the state remembers it.
"""

from .server import WandbServer

__all__ = ["WandbServer"]
