"""The server as a test sees it: its life, its state, and the faults that may be ordered."""

import os
import pathlib
import sys
import threading

from .handler import API_KEY, HTTPServer
from .store import Store


class WandbServer:
    """A context manager around a server on a free loopback port.

    `unknown` holds what was asked and not understood, which a test wants empty; `requests` holds one
    line for each request.

    Args:
        seed: Int, the seed of random and bayes sweeps.
    """

    def __init__(self, seed=0):
        self.unknown = []
        self.requests = []
        self._faults = []
        self._http = HTTPServer(self)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.store = Store(self.url, seed)
        # 0.05 s: how long leaving the context may wait for the loop to notice.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def runs(self):
        """The runs by name, oldest first."""
        with self.store.lock:
            return dict(self.store.runs)

    @property
    def sweeps(self):
        """The sweeps by name, oldest first."""
        with self.store.lock:
            return dict(self.store.sweeps)

    @property
    def agents(self):
        """The agents by id, oldest first."""
        with self.store.lock:
            return dict(self.store.agents)

    @property
    def artifacts(self):
        """The committed artifacts by name with version, `model:v0`."""
        with self.store.lock:
            return self.store.artifacts.committed

    def env(self, folder):
        """Returns a child process's whole environment: the caller's, without its own W&B settings.

        Args:
            folder: Path of a temporary folder for all that the client writes.
        """
        folder = pathlib.Path(folder)
        made = {"HOME": "home", "WANDB_DIR": "runs", "WANDB_CACHE_DIR": "cache"}
        made.update(WANDB_CONFIG_DIR="config", WANDB_DATA_DIR="data")
        for name in made.values():
            (folder / name).mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        return {
            **kept,
            **{name: str(folder / sub) for name, sub in made.items()},
            # The agent starts `/usr/bin/env python`, which must be this interpreter.
            "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), kept.get("PATH", "")]),
            "NO_PROXY": "127.0.0.1",
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",  # seconds
        }

    def fail_next(self, n, status=500, path_contains=""):
        """Answers the next requests with an error and does nothing for them.

        Args:
            n: Int, how many requests.
            status: Int, the HTTP status.
            path_contains: Str, a part of the address or, for /graphql, of the query's text.
        """
        self._add_fault(n, path_contains, status=status)

    def drop_next(self, n, path_contains="", handled=False):
        """Closes the connection of the next requests without an answer.

        Args:
            n: Int, how many requests.
            path_contains: Str, a part of the address or, for /graphql, of the query's text.
            handled: Bool, whether the request takes effect and only its answer is lost.
        """
        self._add_fault(n, path_contains, status=None, handled=handled)

    @property
    def faults_left(self):
        """How many ordered faults no request has met yet."""
        with self.store.lock:
            return len(self._faults)

    def _add_fault(self, n, path_contains, **fault):
        with self.store.lock:
            self._faults += [{"path_contains": path_contains, **fault} for _ in range(n)]

    def take_fault(self, text):
        """Returns and forgets the first fault that was ordered for such a request, or None.

        Args:
            text: Str, the request's address and, for /graphql, its query.
        """
        with self.store.lock:
            for fault in self._faults:
                if fault["path_contains"] in text:
                    self._faults.remove(fault)
                    return fault
        return None

    def stop_run(self, name):
        """Asks a run to stop, through its agent or else in the file stream's next answer.

        Args:
            name: Str, the run's name.
        """
        with self.store.lock:
            self.runs[name].stop_requested = True
