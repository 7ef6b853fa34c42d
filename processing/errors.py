"""Errors about the items of a batch."""


def name_error(error: Exception, name: str, message: str = "") -> Exception:
    """Returns an error of the same kind whose message begins with a name, such as that of the row."""
    # others, such as a UnicodeDecodeError, are not made from a message
    same = isinstance(error, (OSError, ImportError)) or type(error) is TypeError
    return (type(error) if same else ValueError)(f"{name}: {message or error}")
