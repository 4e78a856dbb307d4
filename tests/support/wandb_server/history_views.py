"""A run's history, events and console as GraphQL fields. Names are the schema's."""

import json

from .query import page


def as_json(value):
    """Returns a value with NaN and infinities as the texts that W&B answers: JSON has no such numbers.

    Args:
        value: Anything that JSON holds.
    """
    return json.loads(json.dumps(value), parse_constant=str)


def history_fields(run):
    """Returns the fields of a run that are read from its streams.

    Args:
        run: Run.
    """
    rows = [as_json(row) for row in run.history]
    last = max((row.get("_step", 0) for row in rows), default=-1)

    def history(minStep=0, maxStep=None, samples=None):
        stop = last + 1 if maxStep is None else maxStep
        inside = [row for row in rows if minStep <= row.get("_step", 0) < stop]
        return [json.dumps(row) for row in _thin(inside, samples)]

    def sampled(specs):
        # GraphQL lets one value replace a list of one.
        specs = [specs] if isinstance(specs, str) else specs
        return [_sample(rows, json.loads(spec)) for spec in specs]

    return {
        "historyKeys": {"lastStep": last, "sets": [], "keys": {}},
        "historyLineCount": len(rows),
        "eventsLineCount": len(run.lines["events"]),
        "logLineCount": len(run.lines["output"]),
        "historyTail": json.dumps(run.texts("history")[-1:]),
        "eventsTail": json.dumps(run.texts("events")[-1:]),
        "history": history,
        "events": lambda samples=None: _thin(run.texts("events"), samples),
        "sampledHistory": sampled,
        "logLines": lambda first=None, after=None, last=None, useImprovedPagination=False: page(
            list(enumerate(run.texts("output")))[-(last or 0) :], _log_line, first, after
        ),
        "parquetHistory": lambda liveKeys: {"parquetUrls": [], "liveData": []},
    }


def _sample(rows, spec):
    keys = spec.get("keys")
    low, high = spec.get("minStep", 0), spec.get("maxStep", float("inf"))
    # Here the last step belongs to the range; in `history` it does not.
    inside = [row for row in rows if low <= row.get("_step", 0) <= high]
    if keys:
        inside = [{key: row[key] for key in keys} for row in inside if all(key in row for key in keys)]
    return _thin(inside, spec.get("samples"))


def _thin(rows, samples):
    if not samples or len(rows) <= samples:
        return rows
    return [rows[i * len(rows) // samples] for i in range(samples)]


def _log_line(numbered):
    number, line = numbered
    return {"number": number, "timestamp": None, "level": None, "label": None, "line": line.rstrip("\n")}
