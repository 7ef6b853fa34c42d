"""Folders of images, audio clips and videos, each file a row."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...configuration.modalities import MEDIA
from ..data.files import FILE_READERS, SPLIT_ALIASES
from ..data.media import Row, find_modality
from ..recipes.errors import RecipeError

FILE_COLUMN = "file"  # the path of a row's file in its folder
DATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def holds_tables(folder: Path) -> bool:
    """Returns whether a folder holds files with the rows of splits, or about its media files."""
    starts = tuple(alias for aliases in SPLIT_ALIASES.values() for alias in aliases)
    files = [path.name for path in folder.iterdir() if path.suffix in FILE_READERS]
    return any(name.startswith(starts) or name in DATA_FILES for name in files)


def list_media_files(folder: Path, modalities: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the modality and the path in the folder of each file of these modalities in it and its folders, in the
    order of the paths; those that begin with a dot are left out.

    Raises RecipeError without such a file.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            modality = find_modality(name)
            if modality in modalities and not name.startswith("."):
                found.append((modality, str(Path(place, name).relative_to(folder))))
    if not found:
        raise RecipeError(f"{folder} has no {' or '.join(modalities)} file (by the suffix of its name)")
    return sorted(found, key=lambda item: item[1])


class FolderSource:
    """The media files of a folder that a task reads, each a row.

    Raises:
        RecipeError: a folder without such a file.
    """

    def __init__(self, folder: Path, roles: Sequence[str], size: int) -> None:
        self.folder, self.size, self.names = folder, size, [FILE_COLUMN]
        self.files = list_media_files(folder, [name for name in MEDIA if name in roles])
        self.kinds = dict.fromkeys(kind for kind, _ in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def iterate(self, first: int, last: int) -> Iterator[tuple[int, list[Row], list[dict[str, Any]]]]:
        """Yields parts: the number of the first row, the rows as the task reads them, and their column."""
        for start in range(first, last, self.size):
            files = self.files[start : min(start + self.size, last)]
            rows: list[Row] = [
                {kind: str((self.folder / path).absolute()) if kind == own else None for kind in self.kinds}
                for own, path in files
            ]
            yield start, rows, [{FILE_COLUMN: path} for _, path in files]
