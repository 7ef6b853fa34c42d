"""Sentence encoders (sentence-transformers, https://sbert.net) as configs describe them, ours or those of wrapped
families: the widths of their vectors, and the names of their files."""

from transformers import PreTrainedConfig

SENTENCE_MODULES_FILE = "modules.json"  # lists the modules of a sentence encoder's folder
SENTENCE_SETTINGS_FILE = "config_sentence_transformers.json"  # holds its prompts
# the names of the first module's file of settings, by the family that an old version of the library saved
SENTENCE_TOWER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def pools_sentences(config: PreTrainedConfig) -> bool:
    """Returns whether a tower's config describes a sentence encoder."""
    return bool(getattr(config, "sentence_pooling", None))


def has_unit_length(config: PreTrainedConfig) -> bool:
    """Returns whether a sentence encoder's vectors are of unit length: the last layer but for dropout makes them so."""
    kinds = [entry["type"] for entry in getattr(config, "sentence_layers", None) or [] if entry["type"] != "dropout"]
    return pools_sentences(config) and kinds[-1:] == ["normalize"]


def compute_sentence_widths(config: PreTrainedConfig, width: int) -> list[int]:
    """Returns the width of a sentence encoder's vector before each of its `sentence_layers` and, last, behind them all.

    width: that of the tower's tokens.
    """
    widths = [width * len(config.sentence_pooling)]
    for entry in config.sentence_layers or []:
        widths.append(entry.get("size", widths[-1]))
    return widths
