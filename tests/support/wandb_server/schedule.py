"""What an agent does next: start a run, stop one, or leave."""

import math

from . import sampler
from .identity import now


def heartbeat(store, agent, live):
    """Answers an agent's heartbeat.

    Args:
        store: Store.
        agent: Agent.
        live: Set of the names of runs that its processes are still working on.

    Returns:
        List of commands, dicts as the agent reads them.
    """
    agent.heartbeat = now()
    sweep = store.sweeps[agent.sweep]
    _find_crashed(store, agent, live)
    if live:
        # `exit` would kill the children with SIGKILL: stop them first, leave when they are gone.
        stopping = [name for name in live if _should_stop(sweep, store.runs.get(name))]
        return [{"type": "stop", "run_id": name} for name in sorted(stopping)]
    if sweep.state == "PAUSED":
        return []
    if sweep.state in ("CANCELED", "FINISHED"):
        return [{"type": "exit"}]
    return [_next_run(store, sweep, agent)]


def _find_crashed(store, agent, live):
    for name in agent.runs:
        run = store.runs[name]
        if run.state == "running" and name not in live:
            # Its process exited without posting that it was complete.
            run.state = "crashed"


def _should_stop(sweep, run):
    return sweep.state == "CANCELED" or (run is not None and run.stop_requested)


def _next_run(store, sweep, agent):
    parameters = sampler.suggest(sweep.config, sweep.handed_out, f"{store.seed}/{sweep.name}")
    if parameters is None:
        if not any(run.state == "running" for run in store.sweep_runs(sweep)):
            sweep.state = "FINISHED"
        return {"type": "exit"}
    sweep.handed_out += 1
    sweep.state = "RUNNING"
    args = {name: {"value": value} for name, value in parameters.items()}
    run = store.create_run(
        f"{sweep.name}r{sweep.handed_out:03d}",
        entity=sweep.entity,
        project=sweep.project,
        sweep=sweep.name,
        agent=agent.name,
        raw_config=args,
    )
    agent.runs.append(run.name)
    return {"type": "run", "run_id": run.name, "program": sweep.config.get("program"), "args": args}


def judge(sweep, run):
    """Marks a run to be stopped when hyperband finds it behind at a band that it has just reached.

    Args:
        sweep: Sweep.
        run: Run of it, with its history up to now.
    """
    early = sweep.config.get("early_terminate")
    metric = sweep.config.get("metric") or {}
    maximize = metric.get("goal", "minimize") == "maximize"
    worst = float("-inf" if maximize else "inf")
    logged = (row.get(metric.get("name")) for row in run.history)
    values = [worst if math.isnan(v) else v for v in logged if isinstance(v, (int, float))]
    for band in sampler.bands(early):
        if len(values) < band:
            break
        seen = sweep.seen.setdefault(band, {})
        if run.name in seen:
            continue
        others = list(seen.values())
        seen[run.name] = (max if maximize else min)(values[:band])
        if sampler.falls_behind(seen[run.name], others, early.get("eta", 3), maximize):
            run.stop_requested = True
