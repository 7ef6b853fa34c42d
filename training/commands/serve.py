"""`plait serve`."""

import argparse
from collections.abc import Sequence

from ..recipes.files import parse_overrides
from ..serving.launch import serve
from ..serving.settings import ServeSettings


def run_serve(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait serve`: serves the page of a model until it is interrupted."""
    settings = ServeSettings(
        host=options.host,
        port=options.port,
        share=options.share,
        api=options.api,
        max_file_megabytes=options.max_file_megabytes,
        max_characters=options.max_characters,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        index=options.index,
        index_folder=options.index_folder,
    )
    serve(options.model, settings, parse_overrides(overrides))
    return 0
