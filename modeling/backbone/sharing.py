"""Saving a model with what others need to use it: checksums, plait's own code, and a card."""

from os import PathLike
from pathlib import Path
from typing import Any

from ...configuration import cards, remote_code
from ...configuration.checksums import record_checksums
from ...configuration.remote_code.entry import IS_FLAT
from ...configuration.version import VERSION
from ..adaptation.quantization import check_savable
from ..composition.composable import ComposableModel


class ShareableModel(ComposableModel):
    """A model whose saved folder can explain itself."""

    def save_pretrained(
        self, save_directory: str | PathLike[str], *args: Any, with_code: bool = False, **kwargs: Any
    ) -> Any:
        """Saves the model as transformers does, with the checksums of its files, which `plait check` compares; with
        `with_code`, also the code by which it loads where plait is not installed (`plait export-code`).

        Raises ValueError for quantized weights that safetensors cannot hold.
        """
        check_savable(self)
        writes = kwargs.get("is_main_process", not args or bool(args[0]))
        with record_checksums(save_directory, writes):
            saved = super().save_pretrained(save_directory, *args, **kwargs)
            if with_code and writes and not IS_FLAT:
                remote_code.write_code(Path(save_directory))
            return saved

    def push_to_hub(self, repo_id: str, *, with_code: bool = False, **kwargs: Any) -> str:
        """Uploads the model with its card, and with `with_code` plait's own code; returns the commit.

        Takes the arguments of transformers' `push_to_hub`. A card that somebody wrote or edited stays as it is. The
        code beside a model has no cards: there the model is uploaded as transformers does.
        """
        if IS_FLAT:
            library: Any = super()
            return library.push_to_hub(repo_id, **kwargs)
        shards = {name: kwargs.pop(name) for name in ("max_shard_size",) if name in kwargs}

        def save(folder: str) -> None:
            self.save_pretrained(folder, with_code=with_code, **shards)

        return cards.push_folder(save, repo_id, lambda name: describe_card(self, name, with_code), **kwargs)


def describe_card(model: ComposableModel, name: str, with_code: bool = False) -> Any:
    """Returns what the card of a model says (`CardFacts`), saved under this name with its processor."""
    kind, config = type(model).__name__, model.config
    modalities = [*config.encoders]
    origins = model.origins or ({"the model": model.name_or_path} if model.name_or_path else {})
    summary = model.composition()
    for row in summary.rows:  # a folder's own name alone, as cards are published
        row.origin = cards.find_origin(row.part, row.origin).source or row.origin
    return cards.CardFacts(
        name=name,
        summary=f"A {kind} of plait {VERSION}, which reads {', '.join(modalities) or 'text'}.",
        usage=cards.write_snippet(kind, config, name, with_code),
        use=cards.describe_use(kind, config),
        composition=str(summary),
        parts=cards.describe_parts(origins),
        pipeline_tag=cards.find_pipeline_tag(kind, config),
        tags=[kind, *modalities, *(["multimodal"] if len(modalities) > 1 else [])],
        with_code=with_code,
    )
