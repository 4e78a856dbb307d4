"""Filters, order and pages over lists of runs and other things."""

import json
import math
import re

from .executor import UnknownError


def page(items, make, first=None, after=None):
    """Returns one page as a GraphQL connection.

    Args:
        items: List, all of them in order.
        make: Function, item → dict of its fields.
        first: Int or None, how many.
        after: Str or None, the cursor that the last page ended with.
    """
    start = int(after) if after else 0
    stop = len(items) if first is None else min(start + first, len(items))
    edges = [{"node": make(item), "cursor": str(start + i + 1)} for i, item in enumerate(items[start:stop])]
    end = {"__typename": "PageInfo", "endCursor": str(stop), "hasNextPage": stop < len(items)}
    return {"edges": edges, "pageInfo": end, "totalCount": len(items)}


def select(runs, filters=None, order=None):
    """Returns the runs that match, in order.

    Args:
        runs: List of Run.
        filters: Str, JSON, Mongo's operators; None or empty for all.
        order: Str such as `-summary_metrics.val_acc`, several joined by commas; oldest first if None.
    """
    condition = json.loads(filters) if filters else {}
    found = [run for run in runs if _matches(run, condition or {})]
    for key in reversed((order or "+created_at").split(",")):
        descending = key.startswith("-")
        name = key.lstrip("+-")
        has = [run for run in found if _rank(run, name) is not None]
        without = [run for run in found if _rank(run, name) is None]
        # A run without the value comes last whichever way the others are sorted.
        found = sorted(has, key=lambda run: _rank(run, name), reverse=descending) + without
    return found


def _rank(run, name):
    value = lookup(run, name)
    if isinstance(value, (bool, int, float)):
        return None if math.isnan(value) else (0, value, "")
    return None if value is None else (1, 0, str(value))


def lookup(run, name):
    """Returns a run's value by the name that filters and orders use, or None.

    Args:
        run: Run.
        name: Str: a column, `config.KEY`, `config.KEY.value` or `summary_metrics.KEY`.
    """
    section, _, key = name.partition(".")
    if section == "summary_metrics":
        return _walk(run.summary, key)
    if section == "config":
        found = _walk(run.config, key)
        return found if found is not None else _walk(run.config, key.removesuffix(".value"))
    column = {
        "created_at": run.number,
        "createdAt": run.number,
        "heartbeat_at": run.heartbeat,
        "heartbeatAt": run.heartbeat,
        "display_name": run.display_name,
        "displayName": run.display_name,
        "jobType": run.job_type,
        "job_type": run.job_type,
        "name": run.name,
        "state": run.state,
        "sweep": run.sweep,
        "group": run.group,
        "tags": run.tags,
    }
    if section not in column:
        raise UnknownError(f"Unknown column {name!r} of a run.")
    return column[section]


def _walk(values, key):
    if not isinstance(values, dict) or key in values:
        return values.get(key) if isinstance(values, dict) else None
    head, dot, tail = key.partition(".")
    return _walk(values.get(head), tail) if dot else None


def _matches(run, condition):
    return all(_holds(run, name, wanted) for name, wanted in condition.items())


def _holds(run, name, wanted):
    if name == "$and":
        return all(_matches(run, part) for part in wanted)
    if name == "$or":
        return any(_matches(run, part) for part in wanted)
    value = lookup(run, name)
    if not isinstance(wanted, dict):
        return wanted in value if isinstance(value, list) else value == wanted
    if unknown := set(wanted) - set(_OPERATORS):
        raise UnknownError(f"Unknown operators {sorted(unknown)} in a filter.")
    return all(_OPERATORS[operator](value, operand) for operator, operand in wanted.items())


_OPERATORS = {
    "$eq": lambda value, operand: value == operand,
    "$ne": lambda value, operand: value != operand,
    "$in": lambda value, operand: value in operand,
    "$nin": lambda value, operand: value not in operand,
    "$gt": lambda value, operand: value is not None and value > operand,
    "$gte": lambda value, operand: value is not None and value >= operand,
    "$lt": lambda value, operand: value is not None and value < operand,
    "$lte": lambda value, operand: value is not None and value <= operand,
    "$exists": lambda value, operand: (value is not None) == operand,
    "$regex": lambda value, operand: value is not None and re.search(operand, value) is not None,
}
