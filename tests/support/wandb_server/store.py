"""The server's state: sweeps, agents and runs. Artifacts are in artifacts.py."""

import dataclasses
import json
import re
import threading

import yaml

from . import sampler
from .artifacts import Artifacts
from .executor import GraphQLError
from .identity import global_id, now

ENTITY = "tester"
DEFAULT_PROJECT = "uncategorized"
_STREAMS = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}
_STAMP = re.compile(r"^(ERROR )?\d{4}-\d\d-\d\dT\S+ ")


@dataclasses.dataclass
class Run:
    """One run; the public attributes are what a test looks at."""

    name: str
    number: int
    entity: str = ENTITY
    project: str = DEFAULT_PROJECT
    sweep: str | None = None
    agent: str | None = None
    group: str | None = None
    job_type: str | None = None
    display_name: str | None = None
    notes: str | None = None
    description: str | None = None
    commit: str | None = None
    host: str | None = None
    program: str | None = None
    tags: list = dataclasses.field(default_factory=list)
    raw_config: dict = dataclasses.field(default_factory=dict)
    summary: dict = dataclasses.field(default_factory=dict)
    files: dict = dataclasses.field(default_factory=dict)
    lines: dict = dataclasses.field(default_factory=lambda: {stream: {} for stream in _STREAMS.values()})
    state: str = "running"
    exitcode: int | None = None
    stop_requested: bool = False
    initialised: bool = False
    created: str = dataclasses.field(default_factory=now)
    heartbeat: str = dataclasses.field(default_factory=now)

    @property
    def id(self):
        """The storage id, not the name."""
        return global_id("Run:v1", f"{self.name}:{self.project}:{self.entity}")

    @property
    def config(self):
        """The run's configuration as the script sees it."""
        own = {name: value for name, value in self.raw_config.items() if name != "_wandb"}
        return {name: v["value"] if isinstance(v, dict) and "value" in v else v for name, v in own.items()}

    @property
    def history(self):
        """The logged rows in the order they were logged."""
        return [json.loads(line) for line in self.texts("history")]

    @property
    def output(self):
        """The console's text, without the time that the client writes before each line."""
        return "".join(_STAMP.sub("", line).rstrip("\n") + "\n" for line in self.texts("output"))

    def texts(self, stream):
        """Returns a stream's lines in order.

        Args:
            stream: Str: history, events or output.
        """
        lines = self.lines[stream]
        return [lines[offset] for offset in sorted(lines)]


@dataclasses.dataclass
class Sweep:
    """One sweep; `seen` holds, by band and run name, the metric that hyperband compares."""

    name: str
    entity: str
    project: str
    yaml: str
    config: dict
    state: str = "PENDING"
    display_name: str | None = None
    description: str | None = None
    handed_out: int = 0
    seen: dict = dataclasses.field(default_factory=dict)
    created: str = dataclasses.field(default_factory=now)
    updated: str = dataclasses.field(default_factory=now)

    @property
    def id(self):
        """The storage id, not the name."""
        return global_id("Sweep:v1", f"{self.name}:{self.project}:{self.entity}")


@dataclasses.dataclass
class Agent:
    """One `wandb agent` process; `runs` are the names it was given."""

    name: str
    sweep: str
    host: str
    runs: list = dataclasses.field(default_factory=list)
    created: str = dataclasses.field(default_factory=now)
    heartbeat: str = dataclasses.field(default_factory=now)

    @property
    def id(self):
        """The storage id, which the agent sends with each heartbeat."""
        return global_id("Agent", self.name)


class Store:
    """The state of one server. Hold `lock` around anything that spans two calls."""

    def __init__(self, url, seed):
        self.url = url
        self.seed = seed
        self.lock = threading.RLock()
        self.runs = {}
        self.sweeps = {}
        self.agents = {}
        self.projects = set()
        self.artifacts = Artifacts(url)

    def create_run(self, name, **attributes):
        """Adds a run.

        Args:
            name: Str, the run's id in its address.
            **attributes: fields of `Run`.
        """
        run = Run(name=name, number=len(self.runs) + 1, **attributes)
        run.display_name = run.display_name or f"test-run-{run.number}"
        self.runs[name] = run
        self.projects.add((run.entity, run.project))
        return run

    def run_by_id(self, storage_id):
        """Returns the run with a storage id.

        Args:
            storage_id: Str.

        Raises:
            GraphQLError: there is none.
        """
        return _by_id(self.runs, storage_id, "run")

    def upsert_sweep(self, entity, project, storage_id, config, state, display_name):
        """Adds a sweep, or changes the one with a storage id.

        Args:
            entity, project: Str or None, where a new sweep goes.
            storage_id: Str or None.
            config: Str, YAML, or None to keep.
            state, display_name: Str or None to keep.

        Raises:
            GraphQLError: nothing can be drawn from the configuration, or there is no such sweep.
        """
        if storage_id is None:
            name = f"sweep{len(self.sweeps) + 1:03d}"
            sweep = Sweep(name, entity or ENTITY, project or DEFAULT_PROJECT, config, _checked(config))
            self.sweeps[name] = sweep
            self.projects.add((sweep.entity, sweep.project))
        else:
            sweep = _by_id(self.sweeps, storage_id, "sweep")
            if config is not None:
                sweep.yaml, sweep.config = config, _checked(config)
        sweep.state = state or sweep.state
        sweep.display_name = display_name or sweep.display_name or sweep.config.get("name")
        sweep.updated = now()
        return sweep

    def sweep_runs(self, sweep):
        """Returns a sweep's runs, oldest first.

        Args:
            sweep: Sweep.
        """
        return [run for run in self.runs.values() if run.sweep == sweep.name]

    def stream(self, run, body):
        """Takes one post of the file stream.

        Args:
            run: Run.
            body: Dict: `files` by name with `offset` and `content`, `complete`, `exitcode`.
        """
        run.heartbeat = now()
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            elif name in _STREAMS:
                # By offset, so that a repeated post writes the same lines to the same places.
                # A new dict, because a test may be reading the old one in its own thread.
                known = run.lines[_STREAMS[name]]
                run.lines[_STREAMS[name]] = {**known, **dict(enumerate(chunk["content"], chunk["offset"]))}
        if body.get("complete"):
            run.exitcode = body.get("exitcode")
            run.state = "failed" if run.exitcode else "finished"
        else:
            # A resumed run posts again after it finished.
            run.state, run.exitcode = "running", None


def _by_id(found, storage_id, kind):
    for item in found.values():
        if item.id == storage_id:
            return item
    raise GraphQLError(f"could not find {kind} {storage_id}")


def _checked(text):
    try:
        config = yaml.safe_load(text)
        sampler.suggest(config, 0, seed=0)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GraphQLError(f"Invalid sweep config: {error!r}") from error
    return config
