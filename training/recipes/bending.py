"""Bends a recipe that comes with plait to what the user changes: what it says of parts that are no longer there gives
way."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ...configuration import INLINE
from ...configuration.modalities import MODALITIES, MODALITY_TABLE

TOWER_KEYS = (*MODALITIES, "decoder")
COMPOSED = (*TOWER_KEYS, "decoder_config", "fusion", "query", "connector", "fusion_config", "image_token", "options")
SINGLE_FUSIONS = ("early", "late", "concatenate", INLINE)  # fuse a single modality too
# columns beside its own that a tower reads: documents and conversations are texts
FURTHER_COLUMNS = {"text": ("document",)}
FRESH_TOKENIZER = {"train": {"vocab_size": 8000}}  # of a new text tower without a tokenizer
# settings of single modalities that mean nothing without them, by their dotted key
MODALITY_SETTINGS = {
    "training.share_images": "image",
    "training.image_cache": "image",
    "processor.num_frames": "video",
    "processor.fps": "video",
    "model.options.video_config": "video",
}


def bend_recipe(shipped: Mapping[str, Any], content: dict[str, Any], given: Collection[str]) -> frozenset[str]:
    """Removes from `content` (a shipped recipe with the user's overrides, in place) what only the shipped recipe says
    of parts that the model does not have, and returns the dotted keys whose values are still the shipped ones.

    A modality is left out where the user's `data.columns` does not map it, or where its tower is null. Then its tower,
    its columns, its learning rate, its freezing and its cache go, and with a single tower the fusion. A tower that the
    user makes new is not frozen. What the user names (`given`, dotted keys) always stays.
    """
    bent = Bending(shipped, content, given)
    bent.drop_composition()
    for modality in bent.find_left_out():
        bent.drop_modality(modality)
    bent.drop_fusion()
    bent.settle_parts()
    bent.add_tokenizer()
    return frozenset(
        key for key in list_keys(shipped) if not bent.is_given(key) and find_value(content, key) is not None
    )


def convert_inline(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe of the task generation with `model.fusion: inline` as one of the task dialogue, which trains
    images inside a text: its texts become prompts. Any other recipe stays as it is."""
    if content.get("task") != "generation" or find_value(content, "model.fusion") != INLINE:
        return dict(content)
    data, settings = find_mapping(content, "data"), find_mapping(content, "settings")
    columns = {"prompt" if role == "text" else role: name for role, name in find_mapping(data, "columns").items()}
    kept = {name: value for name, value in settings.items() if name != "references"}  # each is a row there too
    return {**content, "task": "dialogue", "data": {**data, "columns": columns}, "settings": kept}


class Bending:
    """A shipped recipe, what it became by the user's overrides, and the dotted keys that these name."""

    def __init__(self, shipped: Mapping[str, Any], content: dict[str, Any], given: Collection[str]) -> None:
        self.shipped, self.content, self.given = shipped, content, given
        self.model: dict[str, Any] = find_mapping(content, "model")
        self.columns: dict[str, Any] = find_mapping(find_mapping(content, "data"), "columns")
        self.training: dict[str, Any] = find_mapping(content, "training")

    def is_given(self, key: str) -> bool:
        """Returns whether the user named this key, one above it or one below it."""
        return any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in self.given)

    def drop_composition(self) -> None:
        """With the user's `from_pretrained`, drops the towers, the fusion and the options of the shipped model."""
        if self.model.get("from_pretrained") is not None and not find_value(self.shipped, "model.from_pretrained"):
            self._drop("model", COMPOSED)
        elif self.model.get("fusion") == INLINE and find_value(self.shipped, "model.fusion") != INLINE:
            self._drop("model", ("text", "audio", "video", "query", "fusion_config", "decoder_config", "options"))
        elif any(self.model.get(part) is not None and self.is_given(f"model.{part}") for part in TOWER_KEYS):
            self._drop("model", ("from_pretrained",))

    def find_left_out(self) -> list[str]:
        """Returns the modalities of the shipped recipe that the user left out."""
        return [name for name in MODALITIES if self._is_left_out(name)]

    def _is_left_out(self, modality: str) -> bool:
        tower = self.model.get(modality)
        if find_value(self.shipped, f"model.{modality}") is None:
            return False
        if modality == "text" and self.model.get("fusion") == INLINE:
            return False  # the decoder reads the texts
        if tower is None:
            return self.model.get("from_pretrained") is None
        roles = (*MODALITY_TABLE[modality].columns, *FURTHER_COLUMNS.get(modality, ()))
        mapped = any(self.columns.get(role) is not None for role in roles)
        replaced = bool({"data", "data.columns"} & set(self.given)) and bool(self.columns)
        removed = any(f"data.columns.{role}" in self.given for role in roles)
        return (replaced or removed) and not mapped and not self.is_given(f"model.{modality}")

    def drop_modality(self, modality: str) -> None:
        """Drops a modality's tower and columns."""
        self.model.pop(modality, None)
        self._drop("data.columns", MODALITY_TABLE[modality].columns)

    def drop_fusion(self) -> None:
        """Drops the fusion of a single tower, and queries of a modality that is not there."""
        towers = [name for name in MODALITIES if self.model.get(name) is not None]
        if self.model.get("query") not in (None, *towers):
            self._drop("model", ("query",))
        if len(towers) < 2 and self.model.get("fusion") not in SINGLE_FUSIONS:
            self._drop(
                "model", ("fusion", "query") if self.model.get("decoder") else ("fusion", "query", "fusion_config")
            )

    def settle_parts(self) -> None:
        """Drops learning rates, freezing, caches and settings of parts that are not there, new, frozen or adapted."""
        composed = self.model.get("from_pretrained") is None
        parts = {name: self.model[name] for name in TOWER_KEYS if self.model.get(name) is not None}
        absent = {name for name in TOWER_KEYS if composed and name not in parts}
        fresh = {name for name, part in parts.items() if isinstance(part, dict) and self.is_given(f"model.{name}")}
        loaded = {name for name in TOWER_KEYS if find_value(self.shipped, f"model.{name}") is not None}
        pretrained = {*parts} - fresh if composed else loaded
        adapted = self._find_adapted(pretrained)
        dropped = absent | fresh | adapted
        self._keep_names("model.freeze", lambda part: part not in dropped)
        self._keep_names("training.frozen", lambda part: part not in dropped)
        rates = find_mapping(self.training, "learning_rates")
        frozen = {*(self.model.get("freeze") or ()), *(self.training.get("frozen") or ())}
        frozen |= {part for part, rate in rates.items() if rate == 0}
        unadapted = pretrained if adapted else set()  # beside adapters, pretrained weights stay
        self._drop("training.learning_rates", dropped | unadapted | {part for part in rates if part in frozen})
        self._keep_names("training.cache_features", lambda part: part in frozen and part not in dropped)
        self._drop("processor", absent)
        for key, modality in MODALITY_SETTINGS.items():
            if modality in absent and find_value(self.shipped, f"model.{modality}") is not None:
                section, _, name = key.rpartition(".")
                self._drop(section, (name,))

    def _find_adapted(self, pretrained: set[str]) -> set[str]:
        """Returns the parts that the user's `lora` adapts: those it targets, else all that the shipped recipe trains,
        or all pretrained ones if it trains none."""
        lora = self.content.get("lora")
        if not isinstance(lora, dict) or not self.is_given("lora"):
            return set()
        target = lora.get("target") or ()
        named = pretrained.intersection([target] if isinstance(target, str) else target)
        return named or pretrained - {*(self.model.get("freeze") or ())} or pretrained

    def add_tokenizer(self) -> None:
        """Adds a tokenizer, trained on the texts, for a new text tower or decoder of the user's without one."""
        fresh = any(
            isinstance(self.model.get(part), dict) and self.is_given(f"model.{part}") for part in ("text", "decoder")
        )
        if fresh and self.content.get("tokenizer") is None and not self.is_given("tokenizer"):
            self.content["tokenizer"] = FRESH_TOKENIZER

    def _drop(self, section: str, names: Iterable[str]) -> None:
        """Drops keys of a section that the user did not name."""
        values = find_value(self.content, section)
        for name in names:
            if isinstance(values, dict) and not self.is_given(f"{section}.{name}"):
                values.pop(name, None)

    def _keep_names(self, key: str, wanted: Callable[[str], bool]) -> None:
        """Shortens a list of parts that the user did not give."""
        section, _, name = key.rpartition(".")
        values: Any = find_value(self.content, section)
        if not self.is_given(key) and isinstance(values, dict) and values.get(name):
            values[name] = [part for part in values[name] if wanted(part)]


def find_mapping(content: Any, key: str) -> dict[str, Any]:
    """Returns the mapping under a key; an empty one, not part of the content, if there is none."""
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def find_value(content: Mapping[str, Any], key: str) -> Any:
    """Returns the value under a dotted key; None if there is none."""
    found: Any = content
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def list_keys(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted keys of all values that are no mappings."""
    keys: list[str] = []
    for name, value in content.items():
        keys += list_keys(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]
    return keys
