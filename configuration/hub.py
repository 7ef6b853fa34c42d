"""The arguments of `from_pretrained` that say where a file is."""

from collections.abc import Mapping
from typing import Any

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def select_hub_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that say where a file is (`HUB_OPTIONS`)."""
    return {name: arguments[name] for name in HUB_OPTIONS if name in arguments}
