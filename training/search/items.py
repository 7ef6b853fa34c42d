"""What an index holds: the files of a folder, or the rows of a table."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ...configuration import DOCUMENT
from ..data.identity import compute_item_key, read_content
from ..data.media import READ_ERRORS, list_present
from ..data.unreadable_rows import summarize_error
from ..prediction.answers import make_plain
from ..prediction.folders import FILE_COLUMN, find_modality, list_media_files
from ..prediction.sources import RowSource
from ..recipes.errors import RecipeError

ROW_COLUMN = "row"  # the number of an item's row in its table
TEXT_FILES = ".txt"


class IndexItem(NamedTuple):
    """An item to index. place: its file, or its row with the columns of the table; key: of its content, the same for
    the same content; value: what the model encodes; problem: why it cannot be read, or nothing."""

    place: Mapping[str, Any]
    key: str
    value: Any
    problem: str = ""


def find_folder_side(folder: Path, sides: Mapping[str, str]) -> str:
    """Returns the first side of a model of which a folder has files: media by their suffix, else texts in .txt files.

    Raises RecipeError without such a file.
    """
    media = {modality: side for side, modality in sides.items() if modality != "text" and side != DOCUMENT}
    files = list_media_files(folder, list(media)) if media and has_media(folder, media) else []
    if files:
        held = {modality for modality, _ in files}
        return next(side for modality, side in media.items() if modality in held)
    if any(folder.rglob(f"*{TEXT_FILES}")):
        return find_text_side(sides)
    raise RecipeError(f"{folder} has no file that the model reads: it reads {', '.join(sides)}")


def has_media(folder: Path, media: Mapping[str, str]) -> bool:
    """Returns whether a folder has a media file of one of these modalities."""
    return any(find_modality(path) in media for path in folder.rglob("*") if path.is_file())


def find_text_side(sides: Mapping[str, str]) -> str:
    """Returns the side of texts that are searched: documents, else texts."""
    return DOCUMENT if sides.get(DOCUMENT) == "text" else "text"


def iterate_folder(folder: Path, modality: str) -> Iterator[IndexItem]:
    """Yields the files of a modality in a folder and its folders; hidden ones are left out."""
    if modality == "text":
        paths = (path.relative_to(folder) for path in sorted(folder.rglob(f"*{TEXT_FILES}")))
        names = [str(path) for path in paths if not any(part.startswith(".") for part in path.parts)]
    else:
        names = [name for _, name in list_media_files(folder, [modality])]
    for name in names:
        path = (folder / name).absolute()
        yield build_item({FILE_COLUMN: name}, path if modality == "text" else str(path), modality)


def iterate_rows(source: RowSource, side: str, modality: str) -> Iterator[IndexItem]:
    """Yields the items of one side of a table: of a row with several texts or images each."""
    for part in source.read_parts():
        for number, (row, given) in enumerate(zip(part.rows, part.given, strict=True), start=part.start):
            if modality == "text":
                texts = row.get(side)
                values = [texts] if isinstance(texts, str) else list(texts or ())
            else:
                values = list_present(row, side)
            for value in values:
                yield build_item({ROW_COLUMN: number, **make_plain(given)}, value, modality)


def build_item(place: Mapping[str, Any], value: Any, modality: str) -> IndexItem:
    """Builds an item with the key of its content; of one that cannot be read with its problem."""
    try:
        if modality == "text":
            text = value.read_text(encoding="utf-8") if isinstance(value, Path) else value
            return IndexItem(place, sha256(text.encode()).hexdigest(), text)
        content = read_content(value)
        return IndexItem(place, compute_item_key(content), content)
    except READ_ERRORS as error:
        return IndexItem(place, "", None, summarize_error(error))
