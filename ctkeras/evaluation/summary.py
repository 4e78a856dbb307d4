"""What `evaluate` found, in sentences: accuracy as published, on images not seen before, on images unlike any in training."""

from collections.abc import Mapping
from typing import Any

from ctkeras.evaluation import patients
from ctkeras.evaluation.similarity import NOVEL

_BEFORE = {"valid": "without images that are also in train", "test": "without images that are also in train or valid"}


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """The accuracy of a split in up to eight lines.

    Args:
        metrics: what evaluate.evaluate returned.
    """
    split = metrics["split"]
    by = "patients" if metrics.get("grouped_by") == "patient" else "groups of similar images"
    rows = [(f"as published, {split}", "", "acc", "lookup_acc")]
    if metrics.get("clean_n", metrics["n"]) < metrics["n"]:
        rows.append((_BEFORE[split], "clean_", "clean_acc", "clean_lookup_acc"))
    if "novel_n" in metrics:
        rows.append(
            (f"unlike any in training (correlation below {NOVEL:g})", "novel_", "novel_acc", "novel_lookup_acc")
        )
    width = max(len(title) for title, *_ in rows)
    said = [f"Accuracy, with 95% intervals by resampling {by}:"]
    for title, prefix, name, looked_up in rows:
        text = f"  {title:<{width}}  {_bounded(metrics, name)}  {metrics[f'{prefix}n']} images"
        if f"{prefix}group_n" in metrics:
            text += f" in {metrics[f'{prefix}group_n']} {'groups' if by != 'patients' else by}"
        said.append(text + (f"; lookup {metrics[looked_up]:.3f}" if metrics.get(looked_up) is not None else ""))
    return said + [
        text for text in (_per_patient(metrics), _lookup(metrics), _resting(metrics), precision(metrics)) if text
    ]


def _per_patient(metrics: Mapping[str, Any]) -> str:
    """Metrics of the means over patients' slices; '' where patients are not known or have one slice each."""
    if metrics.get("patient_acc") is None:
        return ""
    parts = [f"{name} {_bounded(metrics, key)}" for key, name in patients.SHOWN.items() if metrics.get(key) is not None]
    mixed = metrics.get("patient_mixed_n")
    more = f"; {mixed} more have slices of several classes" if mixed else ""
    return f"Per patient, by the mean of the slices: {', '.join(parts)}; {metrics['patient_n']} patients{more}."


def precision(metrics: Mapping[str, Any]) -> str:
    """How exactly a set of this size can measure an accuracy, in words; '' where bounds are missing.

    Half the width of the 95% interval in percentage points, once by images and once by groups.
    """
    parts = []
    whats = "patients" if metrics.get("grouped_by") == "patient" else "groups"
    for count, what, low, high in (
        (metrics.get("n"), "images", "acc_low", "acc_high"),
        (metrics.get("group_n"), whats, "acc_group_low", "acc_group_high"),
    ):
        if count and low in metrics and high in metrics:
            points = round(50 * (metrics[high] - metrics[low]))
            parts.append(f"{count} {what}: plus or minus {max(points, 1)} {'point' if points <= 1 else 'points'}")
    return f"Precision of this set: {'; '.join(parts)}." if parts else ""


def _bounded(metrics: Mapping[str, Any], name: str) -> str:
    """A number with its interval by groups, or, where that is missing, by images."""
    if metrics.get(name) is None:
        return "undefined"
    own = f"{name}_group" if f"{name}_group_low" in metrics else name
    return f"{metrics[name]:.3f} ({metrics[f'{own}_low']:.3f} to {metrics[f'{own}_high']:.3f})"


def _lookup(metrics: Mapping[str, Any]) -> str:
    """What the lookup's accuracy means."""
    if metrics.get("lookup_acc") is None:
        return ""
    which = "image of another group, as in folds" if metrics.get("lookup_apart") else "training image"
    text = (
        f"Lookup: the class of the most similar {which}, without any model, is right for {metrics['lookup_acc']:.0%}; "
        f"always naming one class, for {metrics['lookup_chance']:.0%}."
    )
    return f"{text} This split rewards recognising patients." if metrics.get("lookup_speaks") else text


def _resting(metrics: Mapping[str, Any]) -> str:
    """What an interval rests on where every answer, or none, was right."""
    whole = [metrics.get(f"{prefix}acc") for prefix in ("", "clean_", "novel_")]
    if not any(value in (0.0, 1.0) for value in whole):
        return ""
    return (
        "A metric of 1 or 0 has Wilson's interval for its number of groups, or for those of the rarest class, because all "
        "resamples of it are alike."
    )
