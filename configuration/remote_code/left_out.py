"""What stands in the flat files for the modules that a saved model never runs."""

from typing import Any, NoReturn


class LeftOut:
    """Stands for a name of plait that the code beside a saved model leaves out; whatever uses it raises ImportError."""

    def __init__(self, name: str) -> None:
        self.left_out = name

    def refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises ImportError, which says that plait itself is needed."""
        raise ImportError(
            f"{self.left_out} is not part of the code beside a saved model, which neither composes models nor reads "
            "checkpoints of other models: pip install plait"
        )

    __call__ = __contains__ = __getitem__ = __iter__ = __len__ = refuse
