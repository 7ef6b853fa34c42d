"""What a saved processor's folder holds besides its parts: the code by which transformers loads it, and a card."""

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from ..configuration import cards, remote_code
from ..configuration.checksums import record_checksums
from ..configuration.remote_code.entry import IS_FLAT, refer_to, write_remote_code
from ..configuration.version import VERSION

USAGE = """import plait  # its classes load the folder
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained("{name}"{trust})
print(processor)"""


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
        `with_code`, also the code by which the folder loads where plait is not installed (`plait export-code`)."""
        with record_checksums(save_directory):
            saved = super().save_pretrained(save_directory, *args, **kwargs)
            if with_code and not IS_FLAT:
                remote_code.write_code(Path(save_directory))
            return saved

    def push_to_hub(self, repo_id: str, *, with_code: bool = False, **kwargs: Any) -> str:
        """Uploads the processor, with `with_code` plait's own code, and a card if the repository has none; returns the
        commit. Takes the arguments of transformers' `push_to_hub`."""
        if IS_FLAT:
            library: Any = super()
            return library.push_to_hub(repo_id, **kwargs)

        def save(folder: str) -> None:
            self.save_pretrained(folder, with_code=with_code)

        def describe(name: str) -> Any:
            return describe_processor(self, name, with_code)

        kwargs.pop("max_shard_size", None)
        return cards.push_folder(save, repo_id, describe, replaces_card=False, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Does nothing: the folder names the installed plait."""


def describe_processor(processor: ProcessorMixin, name: str, with_code: bool = False) -> Any:
    """Returns what the card of a processor alone says (`CardFacts`)."""
    trust = ", trust_remote_code=True" if with_code else ""
    usage = USAGE.format(name=name, trust=trust)
    return cards.CardFacts(
        name=name,
        summary=f"A processor of plait {VERSION}: {', '.join(processor.get_attributes())}.",
        usage=usage.partition("\n")[2] if with_code else usage,
        use="It turns rows into the inputs of a plait model, which is not in this repository.",
        with_code=with_code,
    )
