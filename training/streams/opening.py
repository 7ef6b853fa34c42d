"""Opens files as a stream of rows: parquet, csv, tsv, json, jsonl, txt, and WebDataset's tar files."""

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...configuration.messages import to_one_line
from ..data.files import FILE_READERS, SPLIT_ALIASES, find_csv_options
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import IterableDataset as Stream

STREAM_READERS = {**FILE_READERS, ".tar": "webdataset"}
# what the library reads of a file at a time, in bytes or rows: less than it would by itself
PART_SIZES: dict[str, dict[str, Any]] = {
    "json": {"chunksize": 2**21},
    "text": {"chunksize": 2**20},
    "csv": {"chunksize": 1000},
    "parquet": {"batch_size": 1000},
}


def open_stream(source: str | Path, seed: int | None = None, reading: int = 0) -> "Stream":
    """Opens the training rows of a file, of files by a pattern such as `shards/*.tar`, or of the training files of a
    folder, as a stream of the library `datasets`. Images, audio and videos stay {"bytes", "path"}.

    With a seed the files come in a random order, another for each reading. A WebDataset's columns are the suffixes of
    its files, such as jpg, txt and cls.
    Raises RecipeError if there are no such files, or of several kinds.
    """
    from datasets import load_dataset

    files = find_stream_files(source)
    suffixes = {path.suffix for path in files}
    if len(suffixes) != 1 or not suffixes <= set(STREAM_READERS):
        raise RecipeError(
            f"data.source: {source}: expected files of one of the suffixes {', '.join(STREAM_READERS)}, not "
            f"{', '.join(sorted(suffixes))}"
        )
    if seed is not None:
        files = [files[number] for number in np.random.default_rng([seed, reading]).permutation(len(files))]
    kind = STREAM_READERS[files[0].suffix]
    options = {**PART_SIZES.get(kind, {}), **(find_csv_options(files[0]) if kind == "csv" else {})}
    try:
        data = load_dataset(kind, data_files=[str(path) for path in files], split="train", streaming=True, **options)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data.source: {source}: {to_one_line(error)}") from error
    return data.decode(False)


def find_stream_files(source: str | Path) -> list[Path]:
    """Returns the files of a source, sorted. Raises RecipeError if there are none."""
    path = Path(source).expanduser()
    if path.is_dir():
        patterns = [f"{glob.escape(alias)}*{end}" for alias in SPLIT_ALIASES["train"] for end in STREAM_READERS]
        files = sorted({file for pattern in patterns for file in path.glob(pattern)})
    else:
        files = sorted(Path(name) for name in glob.glob(str(path)))
    if not files:
        raise RecipeError(f"data.source: no file is {source}: a stream is read from files, a pattern or a folder")
    return files
