"""Names the checkpoint in transformers' report of what a checkpoint lacks, where the weights were read by plait."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import LogRecord, getLogger
from typing import Any

REPORT_LOGGER = "transformers.modeling_utils"
UNNAMED = "from: None"  # how a report names weights that were handed over


@contextmanager
def name_load_report(name: Any) -> Iterator[None]:
    """Opens a context in which a report of loading names this checkpoint."""

    def rename(record: LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg = record.msg.replace(UNNAMED, f"from: {name}", 1)
        return True

    logger = getLogger(REPORT_LOGGER)
    logger.addFilter(rename)
    try:
        yield
    finally:
        logger.removeFilter(rename)
