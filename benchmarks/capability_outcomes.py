"""How a cell of `capabilities.py` ends."""

import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import plait

YES, OTHER, NO, FAILED = "yes", "n/a", "no", "FAILED"
OURS = (ValueError, TypeError, OSError, ImportError, NotImplementedError)
ROOT = Path(plait.__file__).parent
PACKAGES = tuple(ROOT / name for name in ("configuration", "modeling", "processing", "training"))


class NotApplicableError(Exception):
    """A capability that means nothing for a kind of model; the message says why."""


class Outcome(NamedTuple):
    """How a cell ended, with its reason or the failure; trace: of a failure."""

    kind: str
    reason: str = ""
    trace: str = ""


def run_cell(check: Callable[[], None], refusal: str | None) -> Outcome:
    """Runs the check of a cell. refusal: a part of plait's own error where it is known to refuse; that it does not, or
    otherwise, is a failure."""
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except NotApplicableError as reason:
        return Outcome(OTHER, str(reason))
    except Exception as error:  # whatever it is, the other cells are run, and the exit status says that one failed
        if refusal is not None and refusal in str(error) and is_refusal(error):
            return Outcome(NO, " ".join(str(error).split()))
        return Outcome(FAILED, f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
    return Outcome(YES) if refusal is None else Outcome(FAILED, f"it was to refuse with {refusal!r}, and works")


def is_refusal(error: BaseException) -> bool:
    """Returns whether an error is one for users, raised by plait itself."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, OURS) and any(Path(last).is_relative_to(package) for package in PACKAGES)
