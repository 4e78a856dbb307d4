"""Runs, sweeps, agents and projects as objects of the GraphQL schema. Names are the schema's."""

import fnmatch
import hashlib
import json
import math
import mimetypes
import urllib.parse

from .artifact_views import artifact_view, project_artifact_fields, project_info
from .history_views import as_json, history_fields
from .identity import global_id
from .query import lookup, page, select
from .sampler import count


def project_view(store, entity, name):
    """Returns a project's fields, or None when nothing was ever sent to it.

    Args:
        store: Store.
        entity, name: Str.
    """
    if (entity, name) not in store.projects:
        return None

    def runs(filters=None, order=None):
        here = [run for run in store.runs.values() if (run.entity, run.project) == (entity, name)]
        return select(here, filters, order)

    def run(name, missingOk=False):
        found = store.runs.get(name)
        return run_view(store, found) if found and (found.initialised or not missingOk) else None

    def sweep(sweepName):
        found = store.sweeps.get(sweepName)
        return sweep_view(store, found) if found else None

    sweeps = [s for s in store.sweeps.values() if (s.entity, s.project) == (entity, name)]
    return {
        "__typename": "Project",
        **project_info(entity, name),
        **project_artifact_fields(store.artifacts, entity, name),
        "entityName": entity,
        "readOnly": False,
        "run": run,
        "bucket": run,
        "runCount": lambda filters=None: len(runs(filters)),
        "runs": lambda filters=None, order=None, first=None, after=None: page(
            runs(filters, order), lambda found: run_view(store, found), first, after
        ),
        "sweep": sweep,
        "totalSweeps": len(sweeps),
        "sweeps": lambda first=None, after=None, filters=None: page(
            sweeps, lambda found: sweep_view(store, found), first, after
        ),
    }


def run_view(store, run):
    """Returns a run's fields.

    Args:
        store: Store.
        run: Run.
    """
    meta = run.raw_config.get("_wandb", {}).get("value", {})
    logged = [a for a in store.artifacts.committed.values() if a.run == run.name]
    used = [a for a in store.artifacts.committed.values() if run.name in a.used_by]
    return {
        "__typename": "Run",
        "id": run.id,
        "name": run.name,
        "displayName": run.display_name,
        "description": run.description,
        "notes": run.notes,
        "group": run.group,
        "jobType": run.job_type,
        "tags": run.tags,
        "commit": run.commit,
        "host": run.host,
        "sweepName": run.sweep,
        "state": run.state,
        "exitcode": run.exitcode,
        "running": run.state == "running",
        "failed": run.state == "failed",
        "stopped": run.stop_requested,
        "shouldStop": run.stop_requested,
        "readOnly": False,
        "createdAt": run.created,
        "heartbeatAt": run.heartbeat,
        "user": {"name": "Tester", "username": run.entity},
        "project": project_info(run.entity, run.project),
        "projectId": 1,
        "config": json.dumps(run.raw_config),
        "wandbConfig": lambda keys: json.dumps({key: meta[key] for key in keys if key in meta}),
        "summaryMetrics": json.dumps(as_json(run.summary)),
        "systemMetrics": (run.texts("events") or ["{}"])[-1],
        **history_fields(run),
        "fileCount": len(run.files),
        "files": lambda names=None, pattern=None, first=None, after=None: page(
            _file_names(run, names, pattern), lambda name: _file_view(store, run, name), first, after
        ),
        "outputArtifacts": lambda first=None, after=None: page(
            logged, lambda found: artifact_view(store.artifacts, found), first, after
        ),
        "inputArtifacts": lambda first=None, after=None: page(
            used, lambda found: artifact_view(store.artifacts, found), first, after
        ),
    }


def _file_names(run, names, pattern):
    found = [name for name in run.files if not names or name in names]
    # The pattern is MySQL's LIKE.
    return [n for n in found if pattern is None or fnmatch.fnmatchcase(n, pattern.replace("%", "*"))]


def file_url(store, run, name):
    """Returns where a run's file is put and got.

    Args:
        store: Store.
        run: Run.
        name: Str, the path within the run.
    """
    return f"{store.url}/storage/run/{run.name}/{urllib.parse.quote(name)}"


def _file_view(store, run, name):
    data = run.files[name]
    return {
        "__typename": "File",
        "id": global_id("File", f"{run.name}/{name}"),
        "name": name,
        "url": lambda upload=False: file_url(store, run, name),
        "directUrl": file_url(store, run, name),
        "sizeBytes": len(data),
        "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "updatedAt": run.heartbeat,
        "md5": hashlib.md5(data).hexdigest(),
    }


def sweep_view(store, sweep):
    """Returns a sweep's fields.

    Args:
        store: Store.
        sweep: Sweep.
    """
    runs = store.sweep_runs(sweep)
    agents = [agent for agent in store.agents.values() if agent.sweep == sweep.name]
    metric = (sweep.config.get("metric") or {}).get("name")
    maximize = (sweep.config.get("metric") or {}).get("goal", "minimize") == "maximize"
    ranked = select(runs, None, f"{'-' if maximize else '+'}summary_metrics.{metric}")
    best = lookup(ranked[0], f"summary_metrics.{metric}") if ranked else None
    return {
        "__typename": "Sweep",
        "id": sweep.id,
        "name": sweep.name,
        "displayName": sweep.display_name,
        "description": sweep.config.get("description"),
        "method": sweep.config.get("method"),
        "state": sweep.state,
        "config": sweep.yaml,
        "createdAt": sweep.created,
        "updatedAt": sweep.updated,
        "heartbeatAt": sweep.updated,
        "bestLoss": best if isinstance(best, (int, float)) and math.isfinite(best) else None,
        "runCount": len(runs),
        "runCountExpected": count(sweep.config),
        "earlyStopJobRunning": bool(sweep.config.get("early_terminate")),
        "controller": None,
        "scheduler": None,
        "controllerRunName": None,
        "project": project_info(sweep.entity, sweep.project),
        "runs": lambda first=None, after=None: page(runs, lambda run: run_view(store, run), first, after),
        "agents": lambda: page(agents, lambda agent: agent_view(store, agent)),
        "agent": lambda agentName: next((agent_view(store, a) for a in agents if agentName in (a.name, a.id)), None),
    }


def agent_view(store, agent):
    """Returns an agent's fields.

    Args:
        store: Store.
        agent: Agent.
    """
    runs = [store.runs[name] for name in agent.runs]
    return {
        "__typename": "Agent",
        "id": agent.id,
        "name": agent.name,
        "host": agent.host,
        "state": "RUNNING" if any(run.state == "running" for run in runs) else "FINISHED",
        "totalRuns": len(runs),
        "createdAt": agent.created,
        "heartbeatAt": agent.heartbeat,
        "runs": lambda first=None, after=None, before=None, last=None, order=None: page(
            select(runs, None, order), lambda run: run_view(store, run), first, after
        ),
    }
