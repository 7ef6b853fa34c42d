"""What commands print: results as text or as one JSON object, with progress beside them or without."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from datasets import disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from ..storage.atomic import replace_non_finite


@contextmanager
def hold_output(options: argparse.Namespace) -> Iterator[None]:
    """Opens a context in which a command works: with --json what it prints goes to the error stream, with --quiet it
    shows no progress and logs errors alone."""
    if not options.quiet:
        with redirect_stdout(sys.stderr if options.json else sys.stdout):
            yield
        return
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing):
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
        enable_progress_bars()


def print_results(options: argparse.Namespace, text: str, content: Mapping[str, Any]) -> None:
    """Prints the results as text, or with --json as one JSON object on one line (NaN and infinity are null)."""
    print(json.dumps(replace_non_finite(content), ensure_ascii=False) if options.json else text)
