"""The matches of queries as lines of a table, as a file, or as a grid of images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ...processing.images import read_image
from ..data.image_grid import draw_grid
from ..prediction.folders import FILE_COLUMN
from ..prediction.writers import AnsweredPart, write_answers
from ..recipes.errors import RecipeError
from ..runs.image_output import GRID_SUFFIXES
from ..storage.atomic import replace_file
from .items import ROW_COLUMN
from .vector_index import Match

CELL = 192  # pixels of an image in a grid, at most
SHOWN = 100  # characters of a match in a line


def describe_place(place: Mapping[str, Any]) -> str:
    """Returns the file of an item, or its row with the cells of its columns."""
    if FILE_COLUMN in place and ROW_COLUMN not in place:
        return str(place[FILE_COLUMN])
    cells = ", ".join(str(value) for name, value in place.items() if name != ROW_COLUMN and value not in (None, ""))
    return f"row {place[ROW_COLUMN]}: {cells}"


def format_matches(queries: Sequence[str], found: Sequence[Sequence[Match]]) -> str:
    """Returns a line for each match, under its query if there are several."""
    lines = []
    for query, matches in zip(queries, found, strict=True):
        lines += [f"{query}:"] if len(queries) > 1 else []
        for rank, match in enumerate(matches, start=1):
            shown = " ".join(describe_place(match.place).split())
            lines.append(
                f"{rank:3d}  {match.score:7.4f}  {shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + '...'}"
            )
    return "\n".join(lines)


def write_matches(output: Path, queries: Sequence[str], found: Sequence[Sequence[Match]], source: Path) -> None:
    """Writes the matches to a table (csv, tsv, jsonl, parquet), or their images to a grid (png, jpg, webp).

    Raises RecipeError for a grid of items that are no images.
    """
    with replace_file(output) as unfinished:
        if output.suffix.lower() in GRID_SUFFIXES:
            draw_matches(found, source).save(unfinished)
            return
        names = list(dict.fromkeys(name for matches in found for match in matches for name in match.place))

        def read() -> Iterator[AnsweredPart]:
            for query, matches in zip(queries, found, strict=True):
                answers = [
                    {"query": query, "rank": rank, "score": match.score} for rank, match in enumerate(matches, start=1)
                ]
                yield AnsweredPart([match.place for match in matches], answers)

        write_answers(unfinished, read, names, ["query", "rank", "score"], ";")


def draw_matches(found: Sequence[Sequence[Match]], source: Path) -> Image.Image:
    """Draws the images of the matches, a row for each query, with their ranks and scores."""
    most = max(map(len, found), default=0)
    cells, labels = [], []
    for matches in found:
        images = [read_match(match, source) for match in matches]
        blank = [Image.new("RGB", (CELL, CELL), "white")] * (most - len(images))
        cells += [*images, *blank]
        labels += [f"{rank}. {match.score:.3f}" for rank, match in enumerate(matches, start=1)] + [""] * len(blank)
    if not cells:
        raise RecipeError("there is no match to draw")
    return draw_grid(cells, most, labels)


def read_match(match: Match, source: Path) -> Image.Image:
    """Reads the image of a match, from its file or from the first column of its row with an image file."""
    folder = source if source.is_dir() else source.parent
    for value in match.place.values():
        if isinstance(value, str) and (folder / value).is_file():
            try:
                return ImageOps.contain(read_image(str(folder / value)), (CELL, CELL))
            except ValueError:
                continue
    raise RecipeError(f"{describe_place(match.place)} has no image file: write the matches to a .jsonl or .csv file")
