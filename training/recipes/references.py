"""References to folders and to the Hub: a missing folder and a Hub that cannot be reached are said at once."""

import re
from functools import cache
from pathlib import Path

from ...configuration.messages import to_one_line
from .errors import RecipeError

HUB_ID = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?")
CONNECTION_SECONDS = 5.0


def check_reference(reference: str) -> str:
    """Returns a folder's path or a Hub id as it is; `~` is the home folder.

    Raises RecipeError for what looks like a path where there is nothing, or for a Hub id that is not in the cache while
    the Hub cannot be reached.
    """
    path = Path(reference).expanduser()
    if path.exists():
        return str(path) if reference.startswith("~") else reference
    if looks_local(reference):
        raise RecipeError(f"{reference}: no such folder")
    check_connection(reference, is_cached=find_cached(reference))
    return reference


def looks_local(reference: str) -> bool:
    """Returns whether a reference is no Hub id: it has the form of a path, or begins with a folder that exists."""
    folder = Path(reference).parent
    return HUB_ID.fullmatch(reference) is None or (folder != Path() and folder.is_dir())


def find_cached(name: str) -> bool:
    """Returns whether the config of a Hub's model is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def check_connection(name: str, is_cached: bool) -> None:
    """Raises RecipeError if something of the Hub is neither in the cache nor can be fetched: there is no connection, or
    HF_HUB_OFFLINE forbids it."""
    from huggingface_hub import constants

    if is_cached:
        return
    if constants.HF_HUB_OFFLINE:
        raise RecipeError(
            f"{name}: no such folder, and it is not in the Hub's cache, while HF_HUB_OFFLINE forbids to fetch it: name "
            "a folder (package:NAME/FOLDER is one inside an installed package), or unset HF_HUB_OFFLINE"
        )
    failure = find_connection_failure(constants.ENDPOINT)
    if failure is not None:
        raise RecipeError(
            f"{name}: no such folder, and {constants.ENDPOINT} cannot be reached to look for it ({failure}): correct "
            "the path, or connect to the network"
        )


@cache
def find_connection_failure(endpoint: str) -> str | None:
    """Returns why a server cannot be reached within `CONNECTION_SECONDS`; None if it answers."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=CONNECTION_SECONDS)
    except Exception as error:  # whatever the HTTP library raises; an answer of any status is none of these
        return to_one_line(error) or type(error).__name__
    return None
