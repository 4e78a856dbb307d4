"""The report's first part: what won, whether its lead is more than noise, all architectures, seeds."""

import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.config import FIELDS, PLACES
from ctkeras.evaluation.comparison import Interval, indistinguishable, worded
from ctkeras.report import results
from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import millions, plural, signed, size, with_interval
from ctkeras.report.html.words import number as words_number
from ctkeras.report.noise import runner_up
from ctkeras.report.results import Run, described
from ctkeras.runtime.console import seconds_text, value_text


def won(found: Findings) -> Section:
    """What won, in numbers and a sentence about noise."""
    chosen, runs = found.chosen, found.runs
    kind, sentences = noise(found)
    interval = found.interval(chosen)
    tiles = [_tile("Validation accuracy", words_number(chosen.val_acc), _interval_words(interval))]
    seconds = [run.number("seconds_total") or 0.0 for run in runs]
    tiles.append(_tile("Search", plural(len(runs), "run"), f"{seconds_text(sum(seconds))} in total"))
    lead = [tag("strong", described(chosen)), ", won: it classified " if len(runs) > 1 else ", classified "]
    lead += [_share(interval, chosen), " correctly."]
    if found.results.study:
        lead.append(_over_seeds(found))
    elif len(runs) > 1:
        lead.append(f" This number is optimistic, because it is the best of {len(runs):,} runs on the same images.")
    badges = {"noise": "Within the noise", "more": "More than noise", "unknown": "No interval"}
    verdict_words = [tag("span", badges[kind], class_=f"badge {kind}"), " ", *sentences] if len(runs) > 1 else []
    other = runner_up(found.results, chosen)
    files = found.files("metrics.json", "predictions.csv", runs=[chosen])
    files += ["study.json"] if found.results.study else []
    files += found.files("predictions.csv", runs=[other]) if other is not None and found.against_chosen(other) else []
    return page.section(
        "won",
        "What won",
        p(*lead, class_="lead"),
        p(*verdict_words) if verdict_words else None,
        _given(chosen),
        tag("div", *tiles, class_="tiles"),
        p("Run ", tag("code", chosen.name), ". It was chosen by validation only.", _rule(found)),
        files=files,
    )


def _rule(found: Findings) -> str:
    """The rule by which a study in folds chose among what it cannot tell apart, and why; '' for any other."""
    rule = found.results.study.get("rule")
    if not rule:
        return ""
    return (
        f" Of the accuracies, the mean over the seeds out of fold counts; {rule}. The reason: accuracy of a pool in which one "
        "class is rare can be bought by neglecting that class, and the best of many configurations is partly lucky. A setting "
        "away from its default has to pay more than chance does."
    )


def _over_seeds(found: Findings) -> str:
    """The winner's mean over seeds, which is less optimistic than its best seed."""
    winner = found.results.study.get("winner")
    if not isinstance(winner, Mapping) or "mean_val_acc" not in winner:
        return ""
    mean, spread = words_number(winner["mean_val_acc"]), winner.get("sd_val_acc")
    mean += f" ± {words_number(spread)}" if isinstance(spread, int | float) and spread else ""
    return f" Over its seeds, this configuration reaches {mean} on average; this run is the best of them."


def _tile(name: str, value: str, words: str) -> Html:
    """One large number."""
    parts = (tag("dt", name), tag("dd", value, class_="value"), tag("dd", words, class_="words"))
    return tag("dl", *parts, class_="tile")


def _interval_words(interval: Interval | None) -> str:
    if interval is None:
        return "no interval: its predictions.csv is missing"
    return f"95% interval {interval.low:.3f}–{interval.high:.3f}, {interval.images} images"


def _share(interval: Interval | None, run: Run) -> str:
    folds = in_folds(run)
    if interval is None:
        return f"{run.val_acc:.1%} of the {'images, out of fold,' if folds else 'validation images'}"
    images = "images, out of fold," if folds else "validation images"
    return f"{round(interval.value * interval.images)} of the {interval.images} {images}"


def in_folds(run: Run) -> bool:
    """Whether a run was validated in folds of training and validation images together."""
    return bool(run.metrics.get("folds"))


def _given(run: Run) -> Html | None:
    """A run in folds on the given validation split only, so that both numbers are always shown."""
    value, images = run.metrics.get("given_val_acc"), run.metrics.get("given_val_n")
    if not in_folds(run) or not isinstance(value, int | float):
        return None
    words = "Out of fold means: each image was classified by a model that was trained without it and without slices like it "
    words += (
        f"({run.metrics['folds']} folds). On the {images} images of the given validation split only, the accuracy is "
    )
    words += f"{words_number(value)}."
    return p(words)


def noise(found: Findings) -> tuple[str, list[str]]:
    """Whether the winner's lead is more than noise ('noise', 'more' or 'unknown'), and the sentences that say so."""
    study = found.results.study
    if isinstance(study.get("inside_noise"), bool):
        return _study_noise(found)
    chosen = found.chosen
    other = runner_up(found.results, chosen)
    if other is None:
        return "unknown", ["The lead cannot be tested: there is no other configuration."]
    compared = found.against_chosen(other)
    if compared is None:
        return "unknown", ["The lead cannot be tested: not all runs have predictions for the same validation images."]
    next_best = "The best run of another architecture" if other.model_name != chosen.model_name else "The runner-up"
    sentence = f"{next_best}, {described(other)}, {_behind(compared.difference)}. {worded(compared)}"
    others = [found.right[run.name] for run in found.runs if run is not chosen]
    close, same = indistinguishable(found.right[chosen.name] or {}, others, found.units[0], unit=found.units[1])
    many = f"{close:,} of the {same:,}" if close < same else f"all {same:,}"
    more = f" By the same test, {many} other runs cannot be distinguished from the winner." if same > 1 else ""
    return ("noise" if compared.inside_noise else "more"), [sentence, more]


def _behind(difference: float) -> str:
    """How far a run is behind the winner, as a predicate."""
    if not difference:
        return "is equally accurate"
    return f"is {words_number(abs(difference))} {'behind' if difference > 0 else 'ahead'}"


def _study_noise(found: Findings) -> tuple[str, list[str]]:
    """The same, as the study computed it over its seeds and wrote it to study.json."""
    study = found.results.study
    inside, other = study["inside_noise"], study.get("runner_up")
    first, second = (each.get("config") if isinstance(each, Mapping) else None for each in (study.get("winner"), other))
    named = "the runner-up"
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        named += f" ({', '.join(filter(None, (str(second.get('model_name', '')), _apart(second, [first]))))})"
    ahead = study.get("ahead")
    side = "ahead" if isinstance(ahead, int | float) and ahead < 0 else "behind"
    behind = words_number(abs(ahead) if isinstance(ahead, int | float) else ahead)
    sentence = (
        f"Over {study.get('seeds', 'its')} seeds, {named} is {behind} {side} on average. {study.get('verdict') or ''}"
    )
    if side == "ahead":
        sentence += " That is within one standard error of its accuracy, so the cheaper one won."
    edges = study.get("edges")
    sentence += "".join(f" {edge}" for edge in (edges if isinstance(edges, list) else []))
    return ("noise" if inside else "more"), [sentence]


def architectures(found: Findings) -> Section:
    """Every architecture's best run, with the chosen run for its own: a chart and a table."""
    best = found.by_architecture()
    intervals = {run.name: found.interval(run) for run in best}
    rows, lines = [], []
    for number, run in enumerate(best):
        interval, of_it = intervals[run.name], [r for r in found.runs if r.model_name == run.model_name]
        low, high = (interval.low, interval.high) if interval else (None, None)
        text = with_interval(run.val_acc, low, high)
        others = tuple(sorted({r.val_acc for r in of_it if r is not run})[-40:])
        rows.append(charts.Row(run.model_name, run.val_acc, low, high, text, others, lead=number == 0))
        lines.append(_architecture_line(found, run, text, len(of_it)))
    title = "Validation accuracy of each architecture's best run"
    said = f"{best[0].model_name} reached {best[0].val_acc:.3f}" + (
        f"; {best[-1].model_name}, the last of {len(best)}, reached {best[-1].val_acc:.3f}." if len(best) > 1 else "."
    )
    draw = functools.partial(charts.rows, rows, title=title, description=said, axis="validation accuracy")
    columns = ["architecture", "accuracy (95% interval)", "behind winner", "runs", "parameters", "seconds", "memory"]
    caption = "The best run of each architecture"
    if any(run.val_acc > found.chosen.val_acc for run in found.runs if run.model_name == found.chosen.model_name):
        caption = "The winner, and the best run of each other architecture"
    return page.section(
        "architectures",
        "All architectures",
        page.figure(
            draw,
            "architectures-chart",
            f"{caption}, with its 95% interval; small dots are other runs of the architecture.",
        ),
        page.table(columns, lines, caption=caption, numbers=range(1, 7), marked=0),
        p(
            "Seconds are those of the run; memory is the peak of the process that ran it. Intervals are bootstrapped over ",
            "distinct images with 10,000 resamples; “behind winner” compares answers on the same images.",
            class_="fine",
        ),
        files=found.files("config.json", "metrics.json", "predictions.csv"),
    )


def _architecture_line(found: Findings, run: Run, text: str, runs: int) -> list[Any]:
    """A row of the architectures' table."""
    compared = found.against_chosen(run) if run is not found.chosen else None
    behind = (
        "–" if compared is None else signed(f"{compared.difference:.3f} ({compared.low:.3f} to {compared.high:.3f})")
    )
    trained, total = run.number("params_trainable"), run.number("params_total")
    how = f"{described(run).partition(', ')[2]}, {millions(trained)} trained"
    return [
        page.join([run.model_name, tag("small", how), tag("small", tag("code", run.name))]),
        text,
        behind,
        f"{runs:,}",
        millions(total),
        words_number(run.number("seconds_total"), 1),
        size(run.number("memory_bytes")),
    ]


def seeds(found: Findings) -> Section | None:
    """Configurations that were trained with several seeds: how far chance moves the number."""
    groups = results.by_configuration(found.runs)[:6]
    if not groups:
        return None
    rows, lines = [], []
    for number, group in enumerate(groups):
        values = [run.val_acc for run in group]
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        name = _apart(group[0].config, [other[0].config for other in groups if other is not group], most=2)
        shared = len({described(other[0]) for other in groups}) == 1
        name = name if shared and name else ", ".join(part for part in (described(group[0]), name) if part)
        text = f"{mean:.3f} ± {spread:.3f}" if spread else f"{mean:.3f} with each of {len(group)} seeds"
        rows.append(charts.Row(name, mean, mean - spread, mean + spread, text, tuple(values), lead=number == 0))
        lines.append(
            [name, len(group), words_number(mean), words_number(spread or None), _listed(values), _names(group)]
        )
    draw = functools.partial(
        charts.rows,
        rows,
        title="Validation accuracy over seeds",
        description=f"{rows[0].label} has the highest mean, {rows[0].text}.",
        axis="validation accuracy",
        bounds=charts.domain([v for row in rows for v in (row.low, row.high, *row.others)], within=(0, 1)),
    )
    data = page.table(
        ["configuration", "seeds", "mean", "standard deviation", "each", "runs"],
        lines,
        caption="Validation accuracy over seeds",
        numbers=(1, 2, 3),
    )
    return page.section(
        "seeds",
        "The same configuration with other seeds",
        page.figure(
            draw,
            "seeds-chart",
            "Mean over seeds ± one standard deviation; each small dot is a run.",
            data,
        ),
        files=found.files("config.json", "metrics.json"),
    )


def _apart(config: Mapping[str, Any], others: Sequence[Mapping[str, Any]], most: int = 3) -> str:
    """How a configuration differs from others, as in dropout 0.5, mixup_alpha 0; at most `most` hyperparameters."""
    left_out = ("model_name", "freeze_backbone", "seed", *PLACES)  # the first two are shown anyway
    names = [name for name in FIELDS if name not in left_out and name in config]
    differing = [name for name in names if any(other.get(name) != config[name] for other in others)]
    return ", ".join(f"{name} {value_text(config[name])}" for name in differing[:most])


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _names(group: Sequence[Run]) -> str:
    return ", ".join(run.name for run in group)
