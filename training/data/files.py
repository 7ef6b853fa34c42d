"""Reads data files, folders of images and Hub data sets, and resolves the paths in their columns."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...configuration.messages import to_one_line
from ...configuration.modalities import MEDIA
from ..recipes.errors import RecipeError
from ..recipes.schema import SPLITS, DataRecipe
from .sources import SOURCES
from .squad import is_squad, read_squad_rows

if TYPE_CHECKING:
    from datasets import Dataset

FILE_READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
}
SPLIT_ALIASES = {"validation": ("validation", "valid", "val", "dev"), "train": ("train", "training"), "test": ("test",)}


def load_source(recipe: DataRecipe) -> dict[str, "Dataset"]:
    """Loads `{split: Dataset}` from a registered source, a file, a folder, files by split, or a Hub data set.

    Raises RecipeError for a source that is missing or cannot be read.
    """
    source = recipe.source
    if source is None:
        raise RecipeError(
            f"data.source is missing: set it to a file, a folder, a Hub id or one of {', '.join(SOURCES)}"
        )
    if isinstance(source, Mapping):
        files = {split: Path(file).expanduser() for split, file in source.items()}
        return {split: _resolve_paths(_read_files([file]), recipe, file.parent) for split, file in files.items()}
    if source in SOURCES:
        return SOURCES[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, recipe)
    if path.is_file():
        return {"train": _resolve_paths(_read_files([path]), recipe, path.parent)}
    if path.suffix in FILE_READERS or source.startswith((".", "/", "~")):
        raise RecipeError(f"data.source: there is no file or folder {source}")
    from datasets import DatasetDict, load_dataset

    try:
        loaded = load_dataset(source, recipe.name, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data.source: {source}: {to_one_line(error)}") from error
    return (
        {str(split): data for split, data in loaded.items()} if isinstance(loaded, DatasetDict) else {"train": loaded}
    )


def _read_files(paths: Sequence[Path]) -> "Dataset":
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    names, suffix = ", ".join(map(str, paths)), paths[0].suffix
    if not all(path.is_file() for path in paths):
        raise RecipeError(f"data.source: there is no file {names}")
    if not any(path.stat().st_size for path in paths):
        raise RecipeError(f"data.source: {names} is empty")
    if suffix not in FILE_READERS or any(path.suffix != suffix for path in paths):
        raise RecipeError(f"data.source: {names}: expected one of the suffixes {', '.join(FILE_READERS)}")
    if is_squad(paths[0]):
        return Dataset.from_list(list(read_squad_rows(paths)))
    reader = getattr(Dataset, f"from_{FILE_READERS[suffix]}")
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    try:
        data = reader([str(path) for path in paths], **options)
    except (DatasetGenerationError, ValueError) as error:
        raise RecipeError(f"data.source: {names} cannot be read: {error.__cause__ or error}") from error
    if suffix == ".txt":
        data = data.filter(lambda line: bool(line.strip()), input_columns="text")
    return data


def _read_folder(folder: Path, recipe: DataRecipe) -> dict[str, "Dataset"]:
    found = {}
    for split in SPLITS:
        for alias in SPLIT_ALIASES[split]:
            matches = sorted(file for end in FILE_READERS for file in folder.glob(f"{glob.escape(alias)}*{end}"))
            if matches and split not in found:
                found[split] = _resolve_paths(_read_files(matches), recipe, folder)
    return found or _read_images(folder)


def _read_images(folder: Path) -> dict[str, "Dataset"]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from PIL import Image

    suffixes = Image.registered_extensions()
    if not any(file.suffix.lower() in suffixes for file in folder.rglob("*")):
        raise RecipeError(f"data.source: {folder} has neither train/validation/test files nor images")
    try:
        return {str(split): data for split, data in load_dataset("imagefolder", data_dir=str(folder)).items()}
    except DatasetGenerationError as error:
        raise RecipeError(f"data.source: {folder} cannot be read: {error.__cause__ or error}") from error


def _resolve_paths(data: "Dataset", recipe: DataRecipe, folder: Path) -> "Dataset":
    """Makes paths of images, audio and videos absolute, relative to data.image_root or else to the file's folder."""
    root = Path(recipe.image_root).expanduser() if recipe.image_root is not None else folder
    names = data.column_names
    for column in (column for column in _find_media_columns(recipe) if column in names):
        feature = data.features[column]
        if getattr(getattr(feature, "feature", feature), "dtype", None) in ("string", "large_string"):
            paths = [_make_absolute(root, value) for value in data[column]]
            data = data.remove_columns(column).add_column(column, paths)
    return data.select_columns(names)


def _make_absolute(root: Path, value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, list):
        return [str((root / name).absolute()) for name in value]
    return None if value is None else str((root / value).absolute())


def _find_media_columns(recipe: DataRecipe) -> list[str]:
    """Returns the source's columns that may hold paths."""
    found = [recipe.columns.get(modality, modality) for modality in MEDIA]
    return [name for columns in found for name in ([columns] if isinstance(columns, str) else columns)]
