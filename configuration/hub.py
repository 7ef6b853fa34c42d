"""Arguments of `from_pretrained` that say where a file is, not what to do with it."""

from collections.abc import Mapping
from typing import Any

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def select_hub_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the arguments that say where a file is."""
    return {name: arguments[name] for name in HUB_OPTIONS if name in arguments}
