"""The base class of all configs: annotated fields, and a check of unknown keys."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import logging

from .messages import suggest_nearest

logger = logging.get_logger(__name__)

Given = TypeVar("Given")
Held = TypeVar("Held")

# the file that a config is read from: its "own", that of a "foreign" model type (of which transformers warns), or none
_reading_a_file: ContextVar[str] = ContextVar("plait_reading_a_file", default="")

# keys that PreTrainedConfig removes from its keyword arguments or writes into config.json
_LIBRARY_KEYS = frozenset(
    "num_labels torch_dtype name_or_path attn_implementation experts_implementation output_attentions per_layer_config "
    "model_type transformers_version quantization_config auto_map rope_theta rope_scaling use_return_dict task "
    "custom_pipelines tokenizer_class".split()
)


class Resolved(Generic[Given, Held]):
    """The type of a field that accepts a `Given` and, after `__post_init__`, holds a `Held`.

    At runtime it is `Given`, which `@strict` checks; a type checker sees a descriptor that returns `Held`.
    """

    def __class_getitem__(cls, types: tuple[Any, Any]) -> Any:
        return types[0]

    if TYPE_CHECKING:

        def __get__(self, config: Any, owner: Any = None) -> Held: ...

        def __set__(self, config: Any, value: Given) -> None: ...


Size = Resolved[int | None, int]
LEFT_OUT: Any = None  # the default of a field that __post_init__ fills in


class PlaitBaseConfig(PreTrainedConfig):
    """The base class of all configs of plait.

    Raises:
        TypeError: an unknown key in a Python call; the message names the nearest known one. An unknown key from a file
            (`from_pretrained`, `from_dict`) is kept and warned about once: a newer version may have written it.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_keys(kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Builds a config from the content of a config.json; unknown keys are kept and warned about once."""
        foreign = config_dict.get("model_type", cls.model_type) != cls.model_type
        token = _reading_a_file.set("foreign" if foreign else "own")
        try:
            return super().from_dict(config_dict, **kwargs)
        finally:
            _reading_a_file.reset(token)

    # fields that a saved config holds only if they are set: it is then as it was before they existed
    saved_if_set: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a dict, without fields of `saved_if_set` that are None or False by default, and are."""
        fields = self.__dataclass_fields__
        absent = {name for name in self.saved_if_set if is_unset(fields[name].default)}
        content = super().to_dict().items()
        return {name: value for name, value in content if name not in absent or not is_unset(value)}

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Leaves `rope_parameters` None (no rotary positions), where transformers would fill in its default."""
        if self.rope_parameters is None:
            return kwargs
        return super().convert_rope_params_to_dict(**kwargs)

    def _fill(self, **values: Any) -> None:
        """Sets those of the fields that are None."""
        for name, value in values.items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _check_keys(self, keys: dict[str, Any]) -> None:
        generation = GenerationConfig._get_default_generation_params()
        for key in keys:
            if key in _LIBRARY_KEYS or key in generation or key.startswith("_"):
                continue
            hint = suggest_nearest(key, self.__dataclass_fields__)
            if not _reading_a_file.get():
                raise TypeError(f"{type(self).__name__} has no field {key!r}{hint}")
            if _reading_a_file.get() == "own":
                logger.warning_once(f"{type(self).__name__}: kept the unknown key {key!r} of the config file{hint}")


def is_unset(value: Any) -> bool:
    """Returns whether a value is None or False (0 is neither)."""
    return value is None or value is False
