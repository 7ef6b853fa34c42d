"""What one request may ask for: the size of its files and the length of its texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .settings import MEGABYTE, ServeSettings


def check_file_field(label: str, path: Any, settings: ServeSettings) -> None:
    """Raises ValueError for an input that is no uploaded file, or one above the limit."""
    if not isinstance(path, str) or not Path(path).is_file():
        raise ValueError(f"{label}: {type(path).__name__} {str(path)[:80]!r} is no uploaded file: upload one")
    size = Path(path).stat().st_size
    if size > settings.file_bytes:
        raise ValueError(
            f"{label}: the file has {size / MEGABYTE:.1f} MB, more than {settings.file_bytes / MEGABYTE:g} MB: give a "
            "smaller one"
        )


def check_text_field(label: str, value: Any, settings: ServeSettings) -> None:
    """Raises ValueError for anything but a text, or one above the limit."""
    if not isinstance(value, str):
        raise ValueError(f"{label}: {type(value).__name__} {str(value)[:80]!r} is no text: give a text")
    check_length(label, len(value), settings)


def check_messages_field(label: str, value: Any, settings: ServeSettings) -> None:
    """Raises ValueError for anything but a conversation, or one above the limit of a text."""
    check_length(label, sum(len(text) for text in list_contents(label, value)), settings)


def check_length(label: str, length: int, settings: ServeSettings) -> None:
    """Raises ValueError for more characters than the limit."""
    if length > settings.text_characters:
        raise ValueError(
            f"{label} has {length:,} characters, more than {settings.text_characters:,}: give a shorter one"
        )


def list_contents(label: str, messages: Any) -> list[str]:
    """Returns the texts of a conversation. Raises ValueError for anything but [{"role": ..., "content": ...}, ...]."""
    known = isinstance(messages, list) and messages and all(is_message(message) for message in messages)
    if not known:
        raise ValueError(
            f'{label}: expected a conversation, [{{"role": "user", "content": "..."}}, ...], not {str(messages)[:80]!r}'
        )
    return [message["content"] for message in messages]


def is_message(message: Any) -> bool:
    """Returns whether a value is a message of a conversation."""
    return isinstance(message, Mapping) and all(isinstance(message.get(name), str) for name in ("role", "content"))
