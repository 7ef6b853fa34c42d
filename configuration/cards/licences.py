"""Where the parts of a model came from, and under which licences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

README_FILE = "README.md"
NO_CHECKPOINT = ("fresh", "a ready model", "")  # what composing notes of weights that came from no checkpoint


class PartOrigin(NamedTuple):
    """Where a part's weights came from. source: a Hub id or the name of a folder, None: no checkpoint; licence: as
    its card says, None if that is not known; base_models: Hub ids."""

    part: str
    source: str | None
    licence: str | None = None
    base_models: tuple[str, ...] = ()


def find_origin(part: str, source: str) -> PartOrigin:
    """Returns a part's origin with what the card of its folder, or the Hub's cached card, says; nothing is
    downloaded, and of a folder only its own name is kept, as cards are published."""
    if source in NO_CHECKPOINT:
        return PartOrigin(part, None)
    folder = Path(source).expanduser()
    if folder.is_dir():
        data = read_metadata(folder / README_FILE)
        return PartOrigin(part, folder.resolve().name, find_licence(data), find_base_models(data))
    try:
        cached = try_to_load_from_cache(source, README_FILE)
    except HFValidationError:  # a path that is not there any more
        return PartOrigin(part, Path(source).name)
    data = read_metadata(Path(cached)) if isinstance(cached, str) else {}
    return PartOrigin(part, source, find_licence(data), (source,))


def read_metadata(file: Path) -> Mapping[str, Any]:
    """Reads the metadata at the head of a card; none if there is no card, or one whose metadata are not valid YAML."""
    if not file.is_file():
        return {}
    try:
        return ModelCard.load(file, ignore_metadata_errors=True).data.to_dict()
    except ValueError:
        return {}


def find_licence(data: Mapping[str, Any]) -> str | None:
    """Returns the licence of a card's metadata, by its own name if the Hub has none for it."""
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence or data.get("license")


def find_base_models(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the Hub ids of the models that a card's model was made of."""
    found = data.get("base_model") or ()
    return (found,) if isinstance(found, str) else tuple(map(str, found))
