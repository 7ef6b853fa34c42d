"""Rows to train on, from anywhere, under one set of column names: text, image, label, target, ..."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..recipes.schema import SPLITS, DataRecipe, RecipeError
from .inputs import picture_groups
from .labels import Labels, encode_labels, find_labels
from .media import MEDIA
from .samplers import group_rows, shuffled
from .sources import SOURCES
from .squad import is_squad, squad_rows

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
}
ROLES = ("text", "text_pair", "image", "image_id", "audio", "audio_id", "sampling_rate", "video", "video_id", "label")
ALIASES = {"validation": ("validation", "valid", "val", "dev"), "train": ("train", "training"), "test": ("test",)}


class Data(NamedTuple):
    """The splits that exist, what their labels mean (None: no labels), how many rows could not be read, and of prepared
    splits how many rows they were made of."""

    splits: dict[str, "Dataset"]
    labels: Labels | None
    left_out: dict[str, int] = {}
    rows: dict[str, int] = {}

    @property
    def train(self) -> "Dataset | None":
        return self.splits.get("train")

    @property
    def validation(self) -> "Dataset | None":
        return self.splits.get("validation")

    @property
    def test(self) -> "Dataset | None":
        return self.splits.get("test")


def load_data(
    recipe: DataRecipe,
    seed: int = 42,
    labels: Labels | None = None,
    needs_labels: bool = True,
    label_order: Sequence[str] = (),
    roles: Sequence[str] = ROLES,
) -> Data:
    """Load, rename, encode labels, split and limit, as the recipe says. Pictures stay closed until the collator.

    Args:
        labels: what the labels mean, where a trained model already says so; default: read from the training split.
        needs_labels: whether a missing label column is an error.
        label_order: names of a pretrained model's classes, whose order is kept where the data have the same ones.
        roles: the columns that are taken, under their own names, where the recipe maps none.

    Raises:
        RecipeError: a missing file, split or column, an empty split, a label that training did not have; each message
            names what there is instead.
    """
    raw = load_source(recipe)
    chosen = choose_splits(raw, recipe)
    splits = {split: _rename(data, recipe, split, roles) for split, data in chosen.items()}
    if recipe.words_per_row is not None:
        splits = {split: rows_of_words(data, recipe.words_per_row) for split, data in splits.items()}
    if needs_labels:
        labels = labels or _find_labels(splits, recipe, label_order)
        splits = {split: encode_labels(data, labels, split) for split, data in splits.items()}
    for split in ("test", "validation"):
        splits = _split_off(splits, split, getattr(recipe, f"{split}_fraction"), seed)
    return Data({split: _limit(data, recipe, split, seed) for split, data in splits.items()}, labels)


def load_source(recipe: DataRecipe) -> dict[str, "Dataset"]:
    """`{split: Dataset}` of a registered source, a file, a folder, files by split, or a Hub dataset."""
    source = recipe.source
    if source is None:
        raise RecipeError(f"data.source is missing: a file, a folder, a Hub id or one of {', '.join(SOURCES)}")
    if isinstance(source, Mapping):
        files = {split: Path(file).expanduser() for split, file in source.items()}
        return {split: _with_paths(_read_files([file]), recipe, file.parent) for split, file in files.items()}
    if source in SOURCES:
        return SOURCES[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, recipe)
    if path.is_file():
        return {"train": _with_paths(_read_files([path]), recipe, path.parent)}
    if path.suffix in READERS or source.startswith((".", "/", "~")):
        raise RecipeError(f"data.source: no file or folder {source}")
    from datasets import DatasetDict, load_dataset

    try:
        loaded = load_dataset(source, recipe.name, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data.source: {source}: {' '.join(str(error).split())}") from error
    return (
        {str(split): data for split, data in loaded.items()} if isinstance(loaded, DatasetDict) else {"train": loaded}
    )


def choose_splits(raw: Mapping[str, "Dataset"], recipe: DataRecipe) -> dict[str, "Dataset"]:
    """The source's splits under our names; those the recipe does not name are found by their usual names."""
    chosen = {}
    for split in SPLITS:
        if split in recipe.splits:
            name = recipe.splits[split]
            if name is not None and name not in raw:
                raise RecipeError(f"data.splits.{split}: no split {name!r}; there are {', '.join(raw)}")
        else:
            name = next((alias for alias in ALIASES[split] if alias in raw), None)
        if name is not None:
            chosen[split] = raw[name]
    if not chosen:
        raise RecipeError(f"data: none of the splits {', '.join(raw)} is used; name them in data.splits")
    for split, data in chosen.items():
        if len(data) == 0:
            raise RecipeError(f"data: the split {split!r} is empty")
    return chosen


def rows_of_words(data: "Dataset", words: int) -> "Dataset":
    """The text cut anew, so many words a row: short lines are joined, long ones cut."""
    from datasets import Dataset

    flow = [word for line in data["text"] if line for word in line.split()]
    return Dataset.from_dict({"text": [" ".join(flow[at : at + words]) for at in range(0, len(flow), words)]})


def _read_files(paths: Sequence[Path]) -> "Dataset":
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    names, suffix = ", ".join(map(str, paths)), paths[0].suffix
    if not all(path.is_file() for path in paths):
        raise RecipeError(f"data.source: no file {names}")
    if not any(path.stat().st_size for path in paths):
        raise RecipeError(f"data.source: {names} is empty")
    if suffix not in READERS or any(path.suffix != suffix for path in paths):
        raise RecipeError(f"data.source: {names}: expected one of the suffixes {', '.join(READERS)}")
    if is_squad(paths[0]):
        return Dataset.from_list(list(squad_rows(paths)))
    reader = getattr(Dataset, f"from_{READERS[suffix]}")
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
        for alias in ALIASES[split]:
            matches = sorted(file for end in READERS for file in folder.glob(f"{glob.escape(alias)}*{end}"))
            if matches and split not in found:
                found[split] = _with_paths(_read_files(matches), recipe, folder)
    return found or _read_pictures(folder)


def _read_pictures(folder: Path) -> dict[str, "Dataset"]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from PIL import Image

    suffixes = Image.registered_extensions()
    if not any(file.suffix.lower() in suffixes for file in folder.rglob("*")):
        raise RecipeError(f"data.source: {folder} holds neither train/validation/test files nor pictures")
    try:
        return {str(split): data for split, data in load_dataset("imagefolder", data_dir=str(folder)).items()}
    except DatasetGenerationError as error:
        raise RecipeError(f"data.source: {folder} cannot be read: {error.__cause__ or error}") from error


def _with_paths(data: "Dataset", recipe: DataRecipe, folder: Path) -> "Dataset":
    """Paths of pictures, sound and videos made absolute: they are relative to data.image_root, or to the file's own
    folder."""
    root = Path(recipe.image_root).expanduser() if recipe.image_root is not None else folder
    names = data.column_names
    for column in (column for column in _media_columns(recipe) if column in names):
        feature = data.features[column]
        if getattr(getattr(feature, "feature", feature), "dtype", None) in ("string", "large_string"):
            paths = [_absolute(root, value) for value in data[column]]
            data = data.remove_columns(column).add_column(column, paths)
    return data.select_columns(names)


def _absolute(root: Path, value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, list):
        return [str((root / name).absolute()) for name in value]
    return None if value is None else str((root / value).absolute())


def _media_columns(recipe: DataRecipe) -> list[str]:
    """The source's columns that may hold paths."""
    found = [recipe.columns.get(modality, modality) for modality in MEDIA]
    return [name for columns in found for name in ([columns] if isinstance(columns, str) else columns)]


def _rename(data: "Dataset", recipe: DataRecipe, split: str, known: Sequence[str]) -> "Dataset":
    """The columns the recipe maps, under our names; without a mapping, those that already have them."""
    roles = {name: role for role, name in _roles(recipe, data.column_names, known).items()}
    missing = [name for name in roles if name not in data.column_names]
    if missing:
        names = ", ".join(data.column_names)
        raise RecipeError(f"data.columns: the split {split!r} has no column {', '.join(missing)}; it has {names}")
    if not roles:
        raise RecipeError(f"data.columns: map the columns of {split!r} ({', '.join(data.column_names)}) to roles")
    data = data.select_columns(list(roles)).rename_columns({name: role for name, role in roles.items() if name != role})
    return _closed(data)


def _roles(recipe: DataRecipe, present: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    mapping = recipe.columns or {role: role for role in known if role in present}
    roles = {}
    for role, names in mapping.items():
        if isinstance(names, str):
            roles[role] = names
        else:
            roles |= {f"{role}.{number}": name for number, name in enumerate(names)}
    return roles


def _closed(data: "Dataset") -> "Dataset":
    """Pictures, sound and videos as they are stored: {"bytes", "path"}."""
    from datasets import Audio, Image, List, Video

    for name, feature in data.features.items():
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, (Audio, Image, Video)):
            closed = replace(inner, decode=False)
            data = data.cast_column(name, List(closed) if isinstance(feature, List) else closed)
    return data


def _find_labels(splits: dict[str, "Dataset"], recipe: DataRecipe, order: Sequence[str]) -> Labels:
    first = next(iter(splits.values()))
    return find_labels(splits.get("train", first), recipe.labels, recipe.regression, order)


def _split_off(splits: dict[str, "Dataset"], split: str, fraction: float | None, seed: int) -> dict[str, "Dataset"]:
    """This split taken from training where there is none, never parting rows that share a picture or a context."""
    if fraction is None:
        return splits
    if not 0 < fraction < 1:
        raise RecipeError(f"data.{split}_fraction is {fraction}: expected more than 0 and less than 1")
    if split in splits or "train" not in splits:
        return splits
    train = splits["train"]
    groups = group_rows(_shared_keys(train))
    order = shuffled(len(groups), seed)
    cut = max(1, round(fraction * len(groups)))
    if cut == len(groups):
        raise RecipeError(f"data.{split}_fraction is {fraction}: of {cut} groups of rows none is left to train on")
    held, kept = ([row for group in part for row in groups[group]] for part in (order[:cut], order[cut:]))
    return {**splits, "train": train.select(sorted(kept)), split: train.select(sorted(held))}


def _shared_keys(data: "Dataset") -> Sequence[str | None]:
    """For each row what it may share with others: its picture, or the context that is asked about."""
    if any(name.startswith("image") for name in data.column_names):
        return picture_groups(data)
    return data["context"][:] if "context" in data.column_names else [None] * len(data)


def _limit(data: "Dataset", recipe: DataRecipe, split: str, seed: int) -> "Dataset":
    rows = recipe.max_rows.get(split) if isinstance(recipe.max_rows, Mapping) else recipe.max_rows
    if rows is None or rows >= len(data):
        return data
    if rows < 1:
        raise RecipeError(f"data.max_rows is {rows}: expected at least 1")
    return data.select(sorted(shuffled(len(data), seed)[:rows]))
