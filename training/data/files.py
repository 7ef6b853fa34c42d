"""Reads data files, folders of images, audio or videos, and Hub data sets, and resolves the paths in their columns."""

import glob
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration.messages import to_one_line
from ...configuration.modalities import MEDIA
from ..recipes.errors import RecipeError
from ..recipes.references import check_connection, looks_local
from ..recipes.schema import SPLITS, DataRecipe
from .cells import (
    NESTED_TEXT_COLUMNS,
    TEXT_COLUMNS,
    empty_to_none,
    find_changed_columns,
    read_label_numbers,
    replace_column,
    restore_json_columns,
)
from .media import TARGET_IMAGE, find_modality
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


def load_source(recipe: DataRecipe, needs_labels: bool = True) -> dict[str, "Dataset"]:
    """Loads `{split: Dataset}` from a registered source, a file, a folder, files by split, or a Hub data set.

    needs_labels: whether the label column is read.

    Raises RecipeError for a source that is missing or cannot be read.
    """
    source, read = recipe.source, partial(_read_files, recipe=recipe, needs_labels=needs_labels)
    if source is None:
        raise RecipeError(
            f"data.source is missing: set it to a file, a folder, a Hub id or one of {', '.join(SOURCES)}"
        )
    if isinstance(source, Mapping):
        files = {split: Path(file).expanduser() for split, file in source.items()}
        return {split: resolve_paths(read([file]), recipe, file.parent) for split, file in files.items()}
    if source in SOURCES:
        return SOURCES[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, recipe, read)
    if path.is_file():
        return {"train": resolve_paths(read([path]), recipe, path.parent)}
    if path.suffix in FILE_READERS or looks_local(source):
        raise RecipeError(f"data.source: there is no file or folder {source}")
    from datasets import DatasetDict, config, load_dataset

    cached = Path(config.HF_DATASETS_CACHE, source.replace("/", "___").lower()).exists()
    check_connection(f"data.source: {source}", cached)
    try:
        loaded = load_dataset(source, recipe.name, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data.source: {source}: {to_one_line(error)}") from error
    return (
        {str(split): data for split, data in loaded.items()} if isinstance(loaded, DatasetDict) else {"train": loaded}
    )


def _read_files(paths: Sequence[Path], recipe: DataRecipe, needs_labels: bool) -> "Dataset":
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
    kind = FILE_READERS[suffix]
    reader = getattr(Dataset, f"from_{kind}")
    try:
        data = reader([str(path) for path in paths], **(find_csv_options(paths[0]) if kind == "csv" else {}))
    except (DatasetGenerationError, ValueError) as error:
        raise RecipeError(f"data.source: {names} {explain_read_failure(error)}") from error
    return _restore_cells(data, paths, recipe, needs_labels)


def explain_read_failure(error: Exception) -> str:
    """Returns why a file cannot be read, and what to do about it if that is known."""
    cause = error.__cause__ or error
    if "corresponds to no data" in str(cause):
        return "has no rows, only a header: fill it, or name another file"
    hint = "; save it as UTF-8" if isinstance(cause, UnicodeDecodeError) else ""
    return f"cannot be read: {to_one_line(cause)}{hint}"


def find_csv_options(path: Path) -> dict[str, Any]:
    """Returns the options that read every cell of a .csv or .tsv file as text, as it is written."""
    import pandas
    from datasets import Features, Value

    separator = "\t" if path.suffix == ".tsv" else ","
    names = pandas.read_csv(path, sep=separator, nrows=0).columns
    features = Features({str(name): Value("string") for name in names})
    return {"sep": separator, "features": features, "keep_default_na": False, "na_filter": False}


def _restore_cells(data: "Dataset", paths: Sequence[Path], recipe: DataRecipe, needs_labels: bool) -> "Dataset":
    """Returns the rows of files with the cells of texts and labels as they are written there; without empty lines."""
    kind = FILE_READERS[paths[0].suffix]
    label = recipe.columns.get("label", "label")
    label = label if isinstance(label, str) and needs_labels else ""
    if kind == "text":
        return data.filter(lambda line: bool(line.strip()), input_columns="text")
    if kind == "csv":
        data = empty_to_none(data)
        decided = recipe.labels is not None or recipe.regression or recipe.label_separator is not None
        return data if decided else read_label_numbers(data, label)
    changed = find_changed_columns(data, _find_text_columns(recipe), label) if kind == "json" else []
    return restore_json_columns(data, paths, changed) if changed else data


def _read_folder(folder: Path, recipe: DataRecipe, read: Callable[[Sequence[Path]], "Dataset"]) -> dict[str, "Dataset"]:
    found = {}
    for split in SPLITS:
        for alias in SPLIT_ALIASES[split]:
            matches = sorted(file for end in FILE_READERS for file in folder.glob(f"{glob.escape(alias)}*{end}"))
            if matches and split not in found:
                found[split] = resolve_paths(read(matches), recipe, folder)
    return found or _read_media(folder)


def _read_media(folder: Path) -> dict[str, "Dataset"]:
    """Reads a folder of images, or else of audio or videos, with a folder for each class."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    found = {find_modality(file) for file in folder.rglob("*")}
    if "image" in found:
        try:
            return {str(split): data for split, data in load_dataset("imagefolder", data_dir=str(folder)).items()}
        except DatasetGenerationError as error:
            raise RecipeError(f"data.source: {folder} cannot be read: {error.__cause__ or error}") from error
    for column in ("audio", "video"):
        if column in found:
            return _read_classes(folder, column)
    raise RecipeError(f"data.source: {folder} has neither train/validation/test files nor images, audio or videos")


def _read_classes(folder: Path, column: str) -> dict[str, "Dataset"]:
    """Reads the paths of audio or video files: SPLIT/CLASS/FILE or CLASS/FILE; without folders there is no label."""
    from datasets import Dataset

    aliases = {alias: split for split, names in SPLIT_ALIASES.items() for alias in names}
    rows: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(file for file in folder.rglob("*") if find_modality(file) == column):
        *parents, _ = file.relative_to(folder).parts
        split = aliases.get(parents[0].lower()) if parents else None
        parents = parents[1:] if split else parents
        rows.setdefault(split or "train", []).append((str(file.absolute()), parents[-1] if parents else ""))
    labelled = all(label for content in rows.values() for _, label in content)
    names = (column, "label") if labelled else (column,)
    return {
        split: Dataset.from_dict(dict(zip(names, map(list, zip(*content, strict=True)), strict=False)))
        for split, content in rows.items()
    }


def resolve_paths(data: "Dataset", recipe: DataRecipe, folder: Path) -> "Dataset":
    """Makes paths of images, audio and videos absolute, relative to data.image_root or else to the file's folder."""
    root = Path(recipe.image_root).expanduser() if recipe.image_root is not None else folder
    names = data.column_names
    for column in (column for column in _find_media_columns(recipe) if column in names):
        feature = data.features[column]
        if getattr(getattr(feature, "feature", feature), "dtype", None) in ("string", "large_string"):
            data = replace_column(data, column, [_make_absolute(root, value) for value in data[column]])
    return data.select_columns(names)


def _make_absolute(root: Path, value: Any) -> Any:
    """Returns a path, or a list of paths, made absolute; an empty one is None, and a URL stays what it is."""
    if isinstance(value, list):
        return [_make_absolute(root, name) for name in value]
    if not value or "://" in value:
        return value or None
    return str((root / value).absolute())


def _find_media_columns(recipe: DataRecipe) -> list[str]:
    """Returns the source's columns that may hold paths."""
    return find_source_columns(recipe, (*MEDIA, TARGET_IMAGE))


def _find_text_columns(recipe: DataRecipe) -> list[str]:
    """Returns the source's columns that hold texts, of the names that it may have."""
    return find_source_columns(recipe, (*TEXT_COLUMNS, *NESTED_TEXT_COLUMNS))


def find_source_columns(recipe: DataRecipe, roles: Sequence[str]) -> list[str]:
    """Returns the source's columns of these roles, of the names that it may have."""
    found = [recipe.columns.get(role, role) for role in roles]
    return [name for columns in found for name in ([columns] if isinstance(columns, str) else columns)]
