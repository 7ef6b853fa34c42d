"""`plait search`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..prediction.writers import OUTPUT_SUFFIXES
from ..recipes.errors import RecipeError
from ..recipes.files import parse_overrides
from ..runs.image_output import GRID_SUFFIXES
from ..runs.predict import check_file
from ..search.results import format_matches, write_matches
from ..search.searcher import describe_search, load_search_recipe, open_search, search_all
from .options import check_output_path

QUERY_SIDES = ("image", "audio", "video", "document")


def run_search(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait search`: updates the index, and prints or writes the matches of each query."""
    for name in ("top_k", "batch_size"):
        if getattr(options, name) < 1:
            raise RecipeError(f"--{name.replace('_', '-')} is {getattr(options, name)}: expected at least 1")
    queries = collect_queries(options)
    output = None if options.output is None else Path(options.output).expanduser()
    if output is not None and (output.suffix.lower() not in (*OUTPUT_SUFFIXES, *GRID_SUFFIXES) or not queries):
        kinds = ", ".join((*OUTPUT_SUFFIXES, *GRID_SUFFIXES))
        raise RecipeError(f"--output {output}: give a query, and one of the suffixes {kinds}")
    check_output_path(options.output, options.overwrite)
    places = {"data.source": options.index, "data.splits": {}, "data.max_rows": None}
    recipe = load_search_recipe(options.model, {**places, **parse_overrides(overrides)})
    searcher = open_search(
        options.model,
        options.index,
        options.side,
        index_folder=options.index_folder,
        update=not options.no_update,
        rebuild=options.rebuild,
        batch_size=options.batch_size,
        recipe=recipe,
    )
    print(describe_search(searcher, options.index), file=sys.stderr)
    if not queries:
        return 0
    found = search_all(searcher, [query for _, query in queries], options.top_k)
    names = [name for name, _ in queries]
    if output is None:
        print(format_matches(names, found))
    else:
        write_matches(output, names, found, Path(options.index).expanduser())
        print(f"{sum(map(len, found))} matches in {output}")
    return 0


def collect_queries(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Returns the name and the input of each query.

    Raises RecipeError for a file that is not there.
    """
    queries: list[tuple[str, dict[str, Any]]] = [(text, {"text": text}) for text in options.query]
    for side in QUERY_SIDES:
        for value in getattr(options, side):
            if side != "document":
                check_file(side, value)
            queries.append((value, {side: value}))
    return queries
