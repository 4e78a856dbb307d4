"""What a sweep tries next, and which of its runs it stops early."""

import itertools
import math
import random


def count(config):
    """Returns how many runs the sweep will have, or None when it never ends.

    Args:
        config: Dict, the sweep's configuration.
    """
    total = len(grid(config["parameters"])) if config.get("method") == "grid" else None
    cap = config.get("run_cap")
    return min((n for n in (total, cap) if n is not None), default=None)


def suggest(config, index, seed):
    """Returns the parameters of the sweep's next run, or None when nothing is left to try.

    Args:
        config: Dict, the sweep's configuration: `method` is grid, random or bayes, and bayes draws
            at random too.
        index: Int, how many runs the sweep has had.
        seed: Int or str; the same seed and index give the same parameters.

    Raises:
        ValueError: the configuration cannot be sampled.
    """
    limit = count(config)
    if limit is not None and index >= limit:
        return None
    if config.get("method") == "grid":
        return grid(config["parameters"])[index]
    if config.get("method") not in ("random", "bayes"):
        raise ValueError(f"method is {config.get('method')!r}, allowed: grid, random, bayes")
    return _draw_all(config["parameters"], random.Random(f"{seed}/{index}"))


def grid(parameters):
    """Returns every combination, the last parameter changing fastest.

    Args:
        parameters: Dict of a sweep's parameters, maybe nested.
    """
    axes = [[(name, value) for value in _choices(name, spec)] for name, spec in parameters.items()]
    return [dict(combination) for combination in itertools.product(*axes)]


def _choices(name, spec):
    if "parameters" in spec:
        return grid(spec["parameters"])
    if "value" in spec:
        return [spec["value"]]
    if "values" in spec:
        return list(spec["values"])
    kind = _distribution(name, spec)
    step = spec.get("q", 1)
    if kind in ("int_uniform", "q_uniform"):
        steps = math.floor((spec["max"] - spec["min"]) / step + 1e-9)  # 1e-9: 0.3 / 0.1 is 2.99…
        return [spec["min"] + i * step for i in range(steps + 1)]
    raise ValueError(f"parameter {name!r} has no grid: give value or values, not {kind}")


def _draw_all(parameters, rng):
    return {name: _draw(name, spec, rng) for name, spec in parameters.items()}


def _draw(name, spec, rng):
    if "parameters" in spec:
        return _draw_all(spec["parameters"], rng)
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return rng.choices(spec["values"], weights=spec.get("probabilities"))[0]
    return _DRAWS[_distribution(name, spec)](spec, rng)


def _distribution(name, spec):
    kind = spec.get("distribution")
    if kind is None:
        if "min" not in spec or "max" not in spec:
            raise ValueError(f"parameter {name!r} needs value, values, min and max or a distribution")
        whole = isinstance(spec["min"], int) and isinstance(spec["max"], int)
        kind = "int_uniform" if whole else "uniform"
    if kind not in _DRAWS:
        raise ValueError(f"parameter {name!r} has distribution {kind!r}, allowed: {', '.join(_DRAWS)}")
    return kind


def _log_uniform(spec, rng):
    return math.exp(rng.uniform(math.log(spec["min"]), math.log(spec["max"])))


def _quantised(value, spec):
    q = spec.get("q", 1)
    return round(value / q) * q


_DRAWS = {
    "int_uniform": lambda spec, rng: rng.randint(spec["min"], spec["max"]),
    "uniform": lambda spec, rng: rng.uniform(spec["min"], spec["max"]),
    "q_uniform": lambda spec, rng: _quantised(rng.uniform(spec["min"], spec["max"]), spec),
    "log_uniform": lambda spec, rng: math.exp(rng.uniform(spec["min"], spec["max"])),
    "log_uniform_values": _log_uniform,
    "q_log_uniform_values": lambda spec, rng: _quantised(_log_uniform(spec, rng), spec),
    "normal": lambda spec, rng: rng.gauss(spec.get("mu", 0.0), spec.get("sigma", 1.0)),
}


def bands(early_terminate):
    """Returns the epochs at which hyperband looks at a run, ascending.

    Args:
        early_terminate: Dict of the sweep's configuration: `min_iter` and `eta`, or `max_iter`, `s`
            and `eta`. None or another type than hyperband has no bands.
    """
    if not early_terminate or early_terminate.get("type") != "hyperband":
        return []
    eta = early_terminate.get("eta", 3)
    if "max_iter" in early_terminate:
        brackets = range(1, early_terminate.get("s", 1) + 1)
        found = {int(early_terminate["max_iter"] / eta**k) for k in brackets}
        return sorted(found - {0})
    start = early_terminate["min_iter"]
    return [start * eta**k for k in range(20)]  # 20 bands: past any run's length


def falls_behind(value, others, eta, maximize):
    """Returns whether a run is outside the best 1/eta of those that reached the same band.

    Args:
        value: Float, the run's best metric up to the band.
        others: List of floats, the other runs' at the same band; the first run there is kept.
        eta: Number above 1.
        maximize: Bool, whether higher is better.
    """
    if not others:
        return False
    better = sum(other > value if maximize else other < value for other in others)
    return better >= (len(others) + 1) / eta
