"""Errors about the items of a batch, and about the files of a processor."""

import re
from collections.abc import Callable, Sequence
from typing import Any

# what reading an item may raise; a missing package is not the item's fault, but its error names the item too
ROW_ERRORS = (OSError, TypeError, ValueError, ImportError, MemoryError)
RUST_PANIC = "PanicException"
ROW_PREFIX = re.compile(r"(\w+), row (\d+): ")
ROWS_PREFIX = re.compile(r"row ([\d, ]+) of the batch ")
DATA_ROW = re.compile(r"(?:\w+, )?row [\d, ]+ of the data: .*", re.DOTALL)
BUFFER = re.compile(r"(image file |')?<_io\.BytesIO object at 0x[0-9a-fA-F]+>'?")  # a file read before it is opened


def name_error(error: BaseException, name: str, message: str = "") -> Exception:
    """Returns an error of the same kind whose message begins with a name, such as that of the row; a ValueError if
    memory ran out."""
    # others, such as a UnicodeDecodeError, are not made from a message
    same = isinstance(error, (OSError, ImportError)) or type(error) is TypeError
    return (type(error) if same else ValueError)(f"{name}: {message or describe_error(error)}")  # pyright: ignore[reportReturnType]


def load_part(load: Callable[..., Any], folder: object, *arguments: Any, **options: Any) -> Any:
    """Calls a function that loads a part of a processor from a folder's files, by the name of the folder or its fields.

    Raises an error that names the folder in place of any other: a damaged file breaks anything that is built from it.
    """
    try:
        return load(*(arguments or (folder,)), **options)
    except BaseException as error:
        if not is_failure(error):
            raise
        kind = next((one for one in (OSError, ImportError, TypeError) if isinstance(error, one)), ValueError)
        said = " ".join(describe_error(error).split())
        raise kind(
            f"{folder}: a part of its processor cannot be loaded ({type(error).__name__}: {said}): are its files as "
            "they were saved? plait check tells"
        ) from error


def is_failure(error: BaseException) -> bool:
    """Returns whether this is an error, not a wish to stop: an Exception, or the panic of a library in Rust, which
    pyo3 makes a BaseException."""
    return isinstance(error, Exception) or type(error).__name__ == RUST_PANIC


def check_field_types(chat_template: object, image_token: object, prompts: object) -> None:
    """Raises TypeError for settings of a processor that are no texts, as a damaged processor_config.json has them."""
    if image_token is not None and not isinstance(image_token, str):
        raise TypeError(f"image_token is {image_token!r}: pass a text, such as '<image>', or None")
    if chat_template is not None and not isinstance(chat_template, str) and not holds_texts(chat_template):
        raise TypeError(f"chat_template is {chat_template!r}: pass a text, a dictionary of texts by name, or None")
    if prompts is not None and not holds_texts(prompts):
        raise TypeError(f"prompts is {prompts!r}: pass a dictionary of texts by name, or None")


def holds_texts(value: object) -> bool:
    """Returns whether this is a dictionary of texts by name."""
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


def describe_error(error: BaseException) -> str:
    """Returns what an error says; of an error without words, what it is."""
    if isinstance(error, MemoryError):
        return f"it does not fit into memory{f' ({error})' if str(error) else ''}: make it smaller, or leave it out"
    return (
        BUFFER.sub("the kind of the file" if "identify" in str(error) else "the file", str(error))
        or type(error).__name__
    )


def drop_row(message: str) -> str:
    """Returns what an error says about a row, without its number in a batch: for a place that names the row itself."""
    return ROW_PREFIX.sub("", message, count=1) if ROW_PREFIX.match(message) else message


def renumber_error(error: Exception, numbers: Sequence[int]) -> Exception:
    """Returns the error about a row of a batch, "images, row 3: ..." or "row 3 of the batch ...", with the number of
    that row in the data; any other error unchanged."""
    several = ROWS_PREFIX.match(str(error))
    places = [] if several is None else [int(row) for row in several[1].split(", ")]
    if several is not None and max(places) < len(numbers):
        rows = ", ".join(str(numbers[row]) for row in places)
        return name_error(error, f"row {rows} of the data", f"it {str(error)[several.end() :]}")
    found = ROW_PREFIX.match(str(error))
    if found is None or int(found[2]) >= len(numbers):
        return error
    return name_error(error, f"{found[1]}, row {numbers[int(found[2])]} of the data", str(error)[found.end() :])


def find_row_error(message: str) -> str | None:
    """Returns the line of a message that names a row of the data, without the traceback that a data worker puts before
    it; None for a message about something else."""
    found = DATA_ROW.search(message)
    return None if found is None else " ".join(found[0].split())
