"""W&B's settings: brought to the form that wandb accepts and checked before anything slow."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ctkeras.errors import UserError
from ctkeras.runtime import console, files

# W&B's names of a mode, in lower case, and what each means.
MODES = {"online": "online", "run": "online", "shared": "shared"}
MODES |= {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
NOT_SET = ("", "0", "false", "no", "off")
FORBIDDEN = "/\\#?%:"  # in a project's name (wandb 0.31, Settings.validate_project)
LONGEST_PROJECT = 128  # characters, as there
# Of a repeated request, in seconds: wandb 0.31 waits for the server of a run's rows in steps of 2 to 60 s, 20 times.
FIRST_WAIT, LONGEST_WAIT, PATIENCE = 2.0, 60.0, 900.0
# What wandb's errors say when the server, or the way to it, fails rather than the request.
PASSING = re.compile(
    r"did not respond|timed? ?out|dial tcp|connection|unreachable|no such host|temporar|EOF|max retries"
    r"|(returned|http|status|error)[ :a-z]*(5\d\d|429)|\b(429|50[0-4]) ",
    re.IGNORECASE,
)


def prepare(project: str = "", *, local: bool = False) -> None:
    """Brings WANDB_MODE to a form that wandb accepts, and checks W&B's settings; asks the server whether it knows the key.

    Args:
        project: the W&B project that was given; '' for $WANDB_PROJECT.
        local: runs are recorded offline unless WANDB_MODE says otherwise, as those of a local search.

    Raises:
        UserError: a mode that W&B does not have, a project, entity or key that it would refuse, or another bad setting.
    """
    mode = apply_mode()
    if mode == "disabled":
        return
    require_name("project", project or os.environ.get("WANDB_PROJECT", ""), "--project or WANDB_PROJECT")
    require_name("entity", os.environ.get("WANDB_ENTITY", ""), "WANDB_ENTITY")
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR", "WANDB_BASE_URL", "WANDB_API_KEY"):
        if not os.environ.get(name, "unset").strip():
            del os.environ[name]  # wandb refuses some of these when they are empty
    move_from_home()
    with readable() as settings:
        offline = settings.mode in ("offline", "dryrun", "disabled") or (local and not mode)
        known = offline or has_key(verify=True)
    if not known and mode == "online":
        raise UserError(
            "WANDB_MODE is online and W&B has no key: run wandb login, set WANDB_API_KEY, or set WANDB_MODE=offline"
        )


def apply_mode() -> str:
    """Puts what WANDB_MODE and WANDB_DISABLED mean into WANDB_MODE, and returns it; '' where they leave it to wandb.

    Raises:
        UserError: W&B has no such mode.
    """
    given = os.environ.get("WANDB_MODE", "").strip()
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in NOT_SET:
        mode = "disabled"  # wandb 0.31 ignores this variable, which still means what it says
    elif not given:
        os.environ.pop("WANDB_MODE", None)
        return ""
    elif given.lower() not in MODES:
        raise UserError(f"WANDB_MODE must be online, offline or disabled; got {given!r}")
    else:
        mode = MODES[given.lower()]
    os.environ["WANDB_MODE"] = mode
    return mode


def require_name(kind: str, name: str, given_by: str) -> None:
    """Checks the name of a W&B project or entity.

    Raises:
        UserError: W&B would refuse it, or make another address of it.
    """
    if odd := next((letter for letter in name if letter in FORBIDDEN or not letter.isprintable()), ""):
        entity = "; the entity has a variable of its own, WANDB_ENTITY" if odd == "/" and kind == "project" else ""
        raise UserError(
            f"the W&B {kind} {name!r} holds {odd!r}; a name without {' '.join(FORBIDDEN)} is needed ({given_by}){entity}"
        )
    if len(name) > LONGEST_PROJECT:
        raise UserError(
            f"the W&B {kind} has {len(name)} characters; at most {LONGEST_PROJECT} are allowed ({given_by})"
        )


@contextlib.contextmanager
def readable() -> Iterator[Any]:
    """wandb's settings from the environment and its files.

    Raises:
        UserError: wandb refuses one of them.
    """
    import wandb

    try:
        yield wandb.setup().settings
    except UserError:
        raise
    except Exception as error:  # pydantic's ValidationError, wandb's UsageError and AuthenticationError
        raise UserError(
            f"W&B's settings: {reason(error)}; see the WANDB_ variables and wandb's settings file"
        ) from error


def has_key(*, verify: bool = False) -> bool:
    """Whether wandb has an API key or token, from the environment, its settings or netrc. Never prompts.

    Args:
        verify: ask the server whether it knows the key; a server that cannot be reached has not refused it.

    Raises:
        UserError: the key is malformed, or the server refuses it.
    """
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=verify))
    except wandb.errors.AuthenticationError as error:
        if is_passing(error):
            return True
        raise UserError(
            f"W&B refuses the key ({reason(error)}); run wandb login --relogin, mend WANDB_API_KEY, or set WANDB_MODE=offline"
        ) from error


def is_passing(error: BaseException) -> bool:
    """Whether an error of wandb's is the network's or the server's, so that a later attempt may succeed."""
    return isinstance(error, ConnectionError | TimeoutError) or bool(PASSING.search(str(error)))


def reason(error: BaseException) -> str:
    """An error of wandb's in one line."""
    text = re.sub(r"\[type=.*|For further information.*|Consider increasing.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())[:200] or type(error).__name__


@contextlib.contextmanager
def staging_in(folder: Path) -> Iterator[None]:
    """wandb copies what it uploads into its data folder, which is usually in the home folder: here, the run folder.

    Args:
        folder: the run folder.
    """
    if os.environ.get("WANDB_DATA_DIR"):
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str((folder / "wandb").absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def move_from_home() -> None:
    """Gives wandb a cache and a settings folder below our cache where those in the home folder cannot be written."""
    for name, usual in (("CACHE", _usual("CACHE", ".cache")), ("CONFIG", _usual("CONFIG", ".config"))):
        if not os.environ.get(f"WANDB_{name}_DIR") and not files.writable(usual):
            os.environ[f"WANDB_{name}_DIR"] = str(files.cache_dir("wandb"))
            files.cache_dir("wandb").mkdir(parents=True, exist_ok=True)


def _usual(kind: str, folder: str) -> Path:
    """The folder for a kind of files in the home folder, as XDG has it, with wandb's name."""
    return Path(os.environ.get(f"XDG_{kind}_HOME") or Path.home() / folder) / "wandb"


def patiently(action: Callable[[], Any], what: str) -> Any:
    """The result of an action at W&B's server, repeated while the server or the way to it fails, as wandb repeats its own.

    Args:
        action: what to do.
        what: the action in words, for the line that says that it is repeated.

    Raises:
        Exception: what the action raised, if the failure is not a passing one, or after PATIENCE.
    """
    wait, end = FIRST_WAIT, time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except Exception as error:  # wandb raises its own errors, requests' and urllib's
            if not is_passing(error) or time.monotonic() + wait > end:
                raise
            console.note(f"W&B failed while {what} ({reason(error)}); trying again in {wait:.0f} s.")
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
