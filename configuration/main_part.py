"""What tools of the ecosystem read on a config of several parts: its main part's sizes, and the parts that it has."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig


class MainPartSize:
    """A size that a config answers from its main part (`PlaitConfig.main_part`), where tools look for it (peft's prompt
    tuning, `WatermarkDetector`); it is held, set and saved there alone. If the part does not have it, the attribute is
    absent. A config without parts, read from the file of another model type, keeps the file's own: peft compares them
    with the model's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        if config is None:
            return self
        part = self.find_part(config)
        if part is None and self.name in vars(config):
            return vars(config)[self.name]
        if part is None:
            raise AttributeError(f"this config has no part that answers {self.name}: read that of a tower")
        return getattr(part, self.name)

    def __set__(self, config: Any, value: Any) -> None:
        part = self.find_part(config)
        if part is None:
            vars(config)[self.name] = value
        else:
            setattr(part, self.name, value)

    def find_part(self, config: Any) -> PreTrainedConfig | None:
        """Returns the config that holds the size, None if there is none."""
        return config.main_part


class VocabularySize(MainPartSize):
    """The vocabulary size, of the decoder, else of the text tower."""

    def find_part(self, config: Any) -> PreTrainedConfig | None:
        """Returns the config of the part with text, None if there is none."""
        part = config.get_text_config()
        return None if part is config else part


class PresentSubConfigs:
    """The class's table of sub-configs; on a config, the rows of those that it has: tools walk them, and expect each to
    be a config."""

    def __init__(self, table: Mapping[str, type[PreTrainedConfig]]) -> None:
        self.table = dict(table)

    def __get__(self, config: Any, owner: type | None = None) -> dict[str, type[PreTrainedConfig]]:
        if config is None:
            return self.table
        return {name: kind for name, kind in self.table.items() if getattr(config, name, None) is not None}
