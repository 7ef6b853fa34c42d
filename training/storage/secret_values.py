"""Passwords and access tokens, which are used and never written to a file or printed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HIDDEN = "(hidden)"
SECRET_KEY = re.compile(
    r"(?:(?:hub|hf|auth|use_auth|access|api|push_to_hub)_token|token|"
    r"(?:\w+_)?(?:password|passwd|secret|secret_key|api_key|access_key))",
    re.IGNORECASE,
)
URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def is_secret_key(key: str) -> bool:
    """Returns whether a key of a recipe, dotted or not, holds a secret, such as training.hub_token.

    The tokens of a vocabulary, such as image_token, are none.
    """
    return SECRET_KEY.fullmatch(key.replace("-", "_").rpartition(".")[2]) is not None


def drop_secrets(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested plain values with None for every secret."""
    kept = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            kept[key] = drop_secrets(value)
        elif isinstance(value, str):
            kept[key] = None if is_secret_key(str(key)) else URL_LOGIN.sub("", value)
        else:
            kept[key] = value
    return kept


def find_secrets(content: Mapping[str, Any]) -> list[str]:
    """Returns the secrets among nested plain values, longest first."""
    found = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            found += find_secrets(value)
        elif isinstance(value, str) and value and is_secret_key(str(key)):
            found.append(value)
    return sorted(found, key=len, reverse=True)


def hide_secrets(text: str, secrets: Iterable[str]) -> str:
    """Returns a text without these secrets, and without logins in addresses."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return URL_LOGIN.sub("", text)


def hide_secret_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command line with the values of secret keys hidden."""
    kept: list[str] = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if kept and kept[-1].startswith("--") and "=" not in kept[-1] and is_secret_key(kept[-1][2:]):
            kept.append(HIDDEN)
        elif equals and key.startswith("--") and is_secret_key(key[2:]):
            kept.append(f"{key}={HIDDEN}")
        else:
            kept.append(URL_LOGIN.sub("", argument))
    return kept
