"""What a saved processor's folder holds besides its parts: the code by which transformers loads it."""

from os import PathLike
from typing import Any

from transformers import ProcessorMixin

from ..configuration.checksums import record_checksums
from ..configuration.remote_code import MODULE, write_remote_code


class FolderProcessor(ProcessorMixin):
    """A processor whose folders name, in their `auto_map`, code that imports its class from the installed plait."""

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the settings of the processor and of its parts as a dict."""
        return {**super().to_dict(*args, **kwargs), "auto_map": {"AutoProcessor": f"{MODULE}.PlaitProcessor"}}

    def to_json_file(self, json_file_path: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes the settings, and beside them the code that their `auto_map` names."""
        super().to_json_file(json_file_path, *args, **kwargs)
        write_remote_code(json_file_path)

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Saves the processor as transformers does, with the checksums of its files, which `plait check` compares."""
        with record_checksums(save_directory):
            return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Does nothing: the folder names the installed plait."""
