"""What the tool knows for a reporting checklist: a sentence per fact with its files; '' where it does not know."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ctkeras.audit import measures
from ctkeras.config import FIELDS, PLACES
from ctkeras.report import results
from ctkeras.report.findings import Findings
from ctkeras.report.html.words import known, number, plural, three
from ctkeras.report.results import described
from ctkeras.report.sections import answer, numbers
from ctkeras.report.sections.record import contract_of
from ctkeras.runtime.console import value_text


class Fact(NamedTuple):
    """A sentence for a checklist and where its content is from."""

    text: str
    files: Sequence[str]


def _own(found: Findings, text: str, *names: str) -> Fact:
    """A fact from files of the chosen run."""
    return Fact(text, found.files(*names, runs=[found.chosen]) if text else ())


def _audited(found: Findings, text: str) -> Fact:
    """A fact from the stored audit."""
    return Fact(text, found.audit_files() if text else ())


def _model(found: Findings) -> Fact:
    total = found.chosen.number("params_total")
    words = f"Deep learning: {described(found.chosen)}" + (f", {total:,.0f} parameters" if total else "")
    return _own(found, f"{words}.", "config.json", "metrics.json")


def _use(found: Findings) -> Fact:
    return _own(found, str(contract_of(found.chosen).get("intended_use") or ""), "contract.json")


def _data(found: Findings) -> Fact:
    mark = found.chosen.metrics.get("data_fingerprint")
    return _own(found, f"Images with the fingerprint {mark}." if mark else "", "metrics.json")


def _preparation(found: Findings) -> Fact:
    given = contract_of(found.chosen).get("preparation")
    named = given.items() if isinstance(given, dict) else ()
    known_ = ", ".join(f"{name} {value}" for name, value in named if value != "")
    size = found.chosen.config["image_size"]
    return _own(
        found,
        f"Resized to {size} × {size} pixels" + (f"; {known_}." if known_ else "."),
        "config.json",
        "contract.json",
    )


def _exclusions(found: Findings) -> Fact:
    leaks, conflicts = (found.chosen.metrics.get(name) for name in ("train_images_dropped", "conflicts_dropped"))
    if not known(leaks) or not known(conflicts):
        return Fact("", ())
    words = f"Left out of training: {leaks:,.0f} images that also appear in valid or test, exactly or nearly, and "
    return _own(found, f"{words}{conflicts:,.0f} under two labels.", "metrics.json")


def _labels(found: Findings) -> Fact:
    if not found.measured.get("labels.json"):
        return Fact("", ())
    words = f"{plural(len(found.rows('labels.json')), 'label')} contradicted out of fold."
    return _own(found, words, "labels.json")


def _counts(found: Findings) -> Fact:
    if found.audit is None:
        return Fact("", ())
    splits = {image.split: 0 for image in found.audit.images}
    for image in found.audit.images:
        splits[image.split] += 1
    distinct = len(set(found.twins.values()))
    parts = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    return _audited(found, f"{len(found.audit.images):,} images ({parts}), {distinct:,} distinct.")


def _partition(found: Findings) -> Fact:
    if answer.in_folds(found.chosen):
        folds = number(found.chosen.metrics["folds"], 0)
        words = f"The test split as given; train and valid together in {folds} folds that part no group."
    else:
        words = "Train, valid and test as given."
    return _own(found, words, "metrics.json")


def _level(found: Findings) -> Fact:
    if found.audit is None:
        return Fact("", ())
    leaked = len(found.audit.leaked("test", ("train", "valid")))
    words = f"Groups are {found.grouped_by}; {plural(leaked, 'test image')} also in train or valid, exactly or nearly."
    return _audited(found, words)


def _balance(found: Findings) -> Fact:
    if found.audit is None:
        return Fact("", ())
    counts: dict[tuple[str, str], int] = {}
    for image in found.audit.images:
        counts[image.split, image.class_name] = counts.get((image.split, image.class_name), 0) + 1
    return _audited(
        found, "; ".join(f"{split} {name} {count:,}" for (split, name), count in sorted(counts.items())) + "."
    )


def _precision(found: Findings) -> Fact:
    first = numbers.published(found)
    return Fact(f"{first.words} {first.interval}." if first.interval else "", first.source if first.interval else ())


def _versions(found: Findings) -> Fact:
    return _own(found, str(found.chosen.metrics.get("versions") or ""), "metrics.json")


def _weights(found: Findings) -> Fact:
    pretrained = found.chosen.config["pretrained"]
    words = "ImageNet weights." if pretrained else "Random weights."
    return _own(found, f"{words} Seed {found.chosen.config['seed']}.", "config.json")


def _hyperparameters(found: Findings) -> Fact:
    config, names = found.chosen.config, results.searched(found.runs)
    fixed = [name for name in FIELDS if name not in PLACES and name not in names]
    tried = [f"{name} ({', '.join(sorted({value_text(run.config[name]) for run in found.runs}))})" for name in names]
    chosen = ", ".join(f"{name} {value_text(config[name])}" for name in names)
    words = f"{plural(len(found.runs), 'run')}. Tried: {'; '.join(tried)}. Chosen: {chosen}. " if tried else ""
    equal = ", ".join(f"{name} {value_text(config[name])}" for name in fixed if config[name] != "")
    return Fact(f"{words}Equal in all runs, or of the chosen run: {equal}.", found.files("config.json"))


def _selection(found: Findings) -> Fact:
    rule = found.results.study.get("rule")
    by = "accuracy out of fold" if answer.in_folds(found.chosen) else "validation accuracy"
    words = f"By {by}; the test split had no part in it." + (f" {rule}." if rule else "")
    return Fact(words, found.files("metrics.json") + (["study.json"] if found.results.study else []))


def _ensemble(found: Findings) -> Fact:
    if not answer.in_folds(found.chosen):
        return _own(found, "None: a single model.", "metrics.json")
    return _own(found, f"The mean of {number(found.chosen.metrics['folds'], 0)} members, one per fold.", "metrics.json")


def _metrics(found: Findings) -> Fact:
    words = (
        "Accuracy, balanced accuracy, macro F1, AUC, average precision, calibration error; of each class precision, "
    )
    words += "recall and specificity."
    return _own(found, words if found.test else "", "metrics_test.json")


def _intervals(found: Findings) -> Fact:
    by = "groups" if "acc_group_low" in found.test else "distinct images"
    return _own(found, f"95%, bootstrap over {by}, 10,000 resamples." if found.test else "", "metrics_test.json")


def _robustness(found: Findings) -> Fact:
    worst = found.measured.get("robustness.json", {}).get("worst")
    return _own(found, worst if isinstance(worst, str) else "", "robustness.json")


def _explanation(found: Findings) -> Fact:
    return _own(found, "Grad-CAM (Selvaraju et al. 2017); not validated against a reader.", "model.keras")


def _performance(found: Findings) -> Fact:
    first, second, third = numbers.published(found), numbers.unlike(found), numbers.new_patients(found)
    told = [each for each in (first, second, third) if each.value is not None]
    words = " ".join(f"{each.name}: {number(each.value)}, {each.interval or 'no interval'}." for each in told)
    return Fact(words, list(dict.fromkeys(file for each in told for file in each.source)))


def _listed(found: Findings, names: dict[str, str]) -> Fact:
    """Metrics of the test split that the file has."""
    shown = [f"{words} {three(found.test, name)}" for name, words in names.items() if name in found.test]
    return _own(found, f"{'; '.join(shown)}." if shown else "", "metrics_test.json")


def _diagnostic(found: Findings) -> Fact:
    classes = found.test.get("class_names")
    named = [str(name) for name in classes] if isinstance(classes, list) else []
    return _listed(
        found, {f"{kind}_{name}": f"{kind} of {name}" for name in named for kind in ("recall", "specificity")}
    )


def _ranking(found: Findings) -> Fact:
    return _listed(
        found, {"auc": "AUC", "ap": "average precision", "against_normal_auc": "AUC of cancer against normal"}
    )


def _calibration(found: Findings) -> Fact:
    names = {"ece": "calibration error", "ece_calibrated": "after a temperature fitted on validation"}
    fact = _listed(found, names | {"ece_uncalibrated": "without the temperature"})
    if not fact.text or not found.test.get("calibrated"):
        return fact
    words = f"Logits are divided by {number(found.test['temperature'])} in the model, fitted on validation; "
    return Fact(words + fact.text, [*fact.files, *found.files("contract.json", runs=[found.chosen])])


def _thresholds(found: Findings) -> Fact:
    return _listed(
        found,
        {f"sensitivity_at_valid_threshold_{at}": f"sensitivity, threshold for {at}% on validation" for at in (90, 95)},
    )


def _failures(found: Findings) -> Fact:
    right = found.right[found.chosen.name]
    wrong = sum(not value for value in right.values()) if right else 0
    where = "images, out of fold," if answer.in_folds(found.chosen) else "images of validation"
    words = f"{wrong:,} of {len(right):,} {where} were misclassified; the report shows the worst." if right else ""
    return _own(found, words, "predictions.csv")


def _confounders(found: Findings) -> Fact:
    test, words, source = found.test, [], []
    if known(test.get("lookup_acc")):
        looked = f"A lookup of the most similar training image scores {three(test, 'lookup_acc')} on test; "
        words += [f"{looked}the most frequent class {number(test.get('lookup_chance'))}.", numbers.unseen(found)]
        source += found.files("metrics_test.json", runs=[found.chosen])
    if found.summary:
        words.append(_shift(found.summary["shift"]["test"]))
        source += found.audit_files()
    return Fact(" ".join(filter(None, words)), source)


def _shift(result: Mapping[str, Any]) -> str:
    """Whether test was prepared otherwise than train, or that this cannot be said."""
    if (words := measures.shift_words("test", result)) or result["before"]["auc"] is None:
        return (
            f"{words[:1].upper()}{words[1:]}." if words else "Too few groups to tell whether test differs from train."
        )
    both = " and ".join(f"{number(result[when]['auc'])} {when}" for when in ("before", "after"))
    return f"Margins, size, grays and sharpness do not distinguish test images from train's (AUC {both} preparation)."


def _imbalance(found: Findings) -> Fact:
    return _own(found, f"class_weighting {found.chosen.config['class_weighting']}.", "config.json")


def _output(found: Findings) -> Fact:
    names = contract_of(found.chosen).get("class_names")
    words = (
        f"Classification of images: a probability for each of {', '.join(map(str, names))}."
        if isinstance(names, list)
        else ""
    )
    return _own(found, words, "contract.json")


def _availability(found: Findings) -> Fact:
    return _own(found, "The exported model and how to call it are in the run folder.", "model.keras", "contract.json")


def _command(found: Findings) -> Fact:
    from ctkeras.report.sections.record import train_command

    return _own(found, f"To reproduce: {train_command(found.chosen)}", "config.json")


FACTS: dict[str, Callable[[Findings], Fact]] = {
    "model": _model,
    "use": _use,
    "data": _data,
    "preparation": _preparation,
    "exclusions": _exclusions,
    "labels": _labels,
    "counts": _counts,
    "partition": _partition,
    "partition_level": _level,
    "balance": _balance,
    "precision": _precision,
    "versions": _versions,
    "initial_weights": _weights,
    "hyperparameters": _hyperparameters,
    "selection": _selection,
    "ensemble": _ensemble,
    "metrics": _metrics,
    "intervals": _intervals,
    "robustness": _robustness,
    "explanation": _explanation,
    "internal": _performance,
    "performance": _performance,
    "diagnostic": _diagnostic,
    "ranking": _ranking,
    "calibration": _calibration,
    "thresholds": _thresholds,
    "failures": _failures,
    "confounders": _confounders,
    "imbalance": _imbalance,
    "output": _output,
    "availability": _availability,
    "command": _command,
}
