"""Phrases that stop an English reader stay out of messages, help texts, docstrings and pages.

The list is short and each entry is wrong wherever it matches: a false alarm teaches people to ignore the test.
"""

import ast
import pathlib
import re

import pytest

ROOT = next(folder for folder in pathlib.Path(__file__).parents if (folder / "pyproject.toml").exists())

INSTEAD = {
    # "There is no model" and "is no longer" are fine; "X is no key" is not.
    r"(?<!\bthere )\b(is|are) no (?!longer\b|more\b|less\b|better\b|worse\b|different\b|fewer\b)\w+": "is not a …",
    r"\b(is|are|was) none of\b": "is not one of",
    r"\b(an?|one|each) (row|line|probability|picture|folder|point) an? (epoch|class|step|run|image|trial|file)\b": "per",
    r"\bimages an? (step|second|class)\b": "images per …",
    r"\bonce an? (epoch|study|run|step)\b(?! (has|is|was|ends|ended|starts|started|computes)\b)": "once per …",
    r"\bstand(s|ing)? in\b": "appear in, replace",
    r"\b(is|are|was|were|be|been|if) told (?!to\b)": "is reported, is shown",
    r"\btold (apart|from|by)\b": "distinguished, predicted",
    r"\bgo(es|ing)? on with\b": "resume, continue",
    r"\bgo(es)? on (where|in)\b": "resume",
    r"\bend(s|ed)? well\b": "succeed, finish",
    r"\blikest\b": "most similar",
    r"\bin vain\b": "without effect",
    r"\bput (it |that |this |them )?right\b": "fix, correct",
    r"\b(is|are|being) seen to\b(?! \w)": "is handled",
    r"\bmakes up (a|the) name\b": "chooses a name",
    r"\bsecond caller\b": "a second call",
    r"\bone of them must go\b": "remove one",
    r"\b(a|the|no) wish(es)?\b": "request",
    r"\b(the head|layers|kernels|this machine) alone\b": "only",
    r"\bon jax alone\b": "only on jax",
    r"\bkept features\b": "cached features",
    r"\bcan't be made\b": "cannot create …",
    r"\bcan't be read\b": "cannot read …",
    r"\b(cannot|can|can't|to|tells?) tell( \w+){1,3} apart\b": "distinguish",
    r"\bhas no effect beside\b": "has no effect if … is given",
    r"\bis sound\b": "is valid",
    r"\blist of texts\b": "list of strings",
    r"\bleaves (a|its) (run )?folder\b": "writes, creates",
    r"\bagain with:? `": "to reproduce",
    r"\bwhat (it|this) stands for\b": "what it means",
}


def literals(path):
    """The texts of a module: messages, help texts and docstrings; an f-string with … for each value."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def texts():
    for path in sorted((ROOT / "ctkeras").rglob("*.py")):
        for line, text in literals(path):
            yield f"{path.relative_to(ROOT)}:{line}", text
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *(ROOT / "docs").glob("*.md")]
    templates = [path for path in (ROOT / "ctkeras").rglob("templates/*") if path.is_file()]
    for path in sorted([*pages, *templates, *(ROOT / "sweep_yaml").glob("*.yaml")]):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").replace("\n#", "\n")


def wrong(text):
    """The phrases of a text that are on the list, each with what to write instead."""
    joined = " ".join(text.split())
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(pattern, joined, re.IGNORECASE):
            yield f"{joined[max(0, match.start() - 30) : match.end() + 20]!r}: write {instead!r}"


def test_no_phrase_of_the_list_is_used():
    problems = {f"{place} {problem}" for place, text in texts() for problem in wrong(text)}
    assert not problems, "\n".join(["", *sorted(problems)])


ELSEWHERE = {"cfg", "grid_search", "hyperband_stopping", "params", "schema", "wandb_agent"}  # W&B's own files


def test_files_named_in_texts_exist():
    """A module that has moved is named by its new path: a comment or page must not send a reader to a file of the past."""
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *(ROOT / "docs").glob("*.md")]
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")] + ["noxfile.py"]
    for page in [*pages, *(ROOT / ".github").glob("*.md"), *(ROOT / "ctkeras").rglob("*.py")]:
        for name in re.findall(r"(?<![\w./-])([a-z_][\w/]*\.py)\b", page.read_text(encoding="utf-8")):
            known = any(f"/{file}".endswith(f"/{name}") for file in files)
            assert known or name.removesuffix(".py") in ELSEWHERE, f"{page.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize(
    "text",
    [
        "top_k is no key of a sweep",
        "b0 is none of resnet18, resnet34",
        "Writes history.csv: one row an epoch",
        "images that\nstand in two splits",
        "runs are not told apart",
        "the same command goes on where it was",
        "no trial ended well",
        "run folder x can't be made",
    ],
)
def test_wrong_phrases_are_found(text):
    assert list(wrong(text))


@pytest.mark.parametrize(
    "text",
    [
        "There is no model yet, so there is no file; it is no longer there.",
        "There are no images. The gain is no more than noise.",
        "one row per epoch; images a run got right; once a run has finished",
        "The agent is told to stop. told_by_file",
        "A class that none of the images has; leave the flags alone.",
        "It stands for the mean. The test stands. Training goes on.",
    ],
)
def test_right_phrases_are_not_found(text):
    assert not list(wrong(text))
