"""What a saved processor's folder holds besides its parts: the code by which transformers loads it."""

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from ..configuration import remote_code
from ..configuration.checksums import record_checksums
from ..configuration.remote_code.entry import IS_FLAT, refer_to, write_remote_code


class FolderProcessor(ProcessorMixin):
    """A processor whose folders name, in their `auto_map`, code that imports its class from the installed plait."""

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the settings of the processor and of its parts as a dict."""
        return {**super().to_dict(*args, **kwargs), "auto_map": {"AutoProcessor": refer_to("PlaitProcessor")}}

    def to_json_file(self, json_file_path: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes the settings, and beside them the code that their `auto_map` names."""
        super().to_json_file(json_file_path, *args, **kwargs)
        write_remote_code(json_file_path)

    def save_pretrained(
        self, save_directory: str | PathLike[str], *args: Any, with_code: bool = False, **kwargs: Any
    ) -> Any:
        """Saves the processor as transformers does, with the checksums of its files, which `plait check` compares; with
        `with_code`, also the code by which the folder loads where plait is not installed (`export_code`)."""
        with record_checksums(save_directory):
            saved = super().save_pretrained(save_directory, *args, **kwargs)
            if with_code and not IS_FLAT:
                remote_code.write_code(Path(save_directory))
            return saved

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Does nothing: the folder names the installed plait."""
