"""Trains a tokenizer on the texts of a run."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKEN_STRINGS = {name: f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask")}
# templates of a tower's input, of a prompt that a decoder continues, and of a target; like every text, a decoder's
# begins with [CLS] and ends with [SEP]
ENCODER_TEMPLATE, PREFIX_TEMPLATE, TARGET_TEMPLATE = "[CLS] $A [SEP]", "[CLS] $A", "$A"
TOKEN_ROLES = {**SPECIAL_TOKEN_STRINGS, "bos": SPECIAL_TOKEN_STRINGS["cls"], "eos": SPECIAL_TOKEN_STRINGS["sep"]}


def train_tokenizer(
    texts: Iterable[str],
    max_length: int = 512,
    *,
    vocab_size: int = 8000,
    lowercase: bool = True,
    min_frequency: int = 2,
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer that wraps texts as BERT's does: [CLS] text [SEP].

    With bytes no character is unknown, and unlike WordPiece's, this training is deterministic.

    Raises:
        RecipeError: a `vocab_size` too small for the 256 bytes and the special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = [AddedToken(token, lstrip=token == "[MASK]", special=True) for token in SPECIAL_TOKEN_STRINGS.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(special):
        raise RecipeError(
            f"tokenizer.train.vocab_size is {vocab_size}: set it to {len(alphabet) + len(special)} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    cases = [normalizers.Lowercase()] if lowercase else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *cases])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    settings = {"vocab_size": vocab_size, "min_frequency": min_frequency, "initial_alphabet": alphabet}
    trainer = trainers.BpeTrainer(special_tokens=special, show_progress=False, **settings)
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer, ENCODER_TEMPLATE, max_length)


def rewrap_tokenizer(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with the same vocabulary and another template, one of the *_TEMPLATE constants."""
    from tokenizers import Tokenizer

    copied = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return wrap_tokenizer(copied, template, tokenizer.model_max_length)


def wrap_tokenizer(tokenizer: "Tokenizer", template: str, max_length: int) -> PreTrainedTokenizerFast:
    """Wraps a trained `tokenizers` tokenizer as one of transformers that applies the template."""
    from tokenizers import AddedToken, processors

    ends = [
        (name, tokenizer.token_to_id(name)) for name in (SPECIAL_TOKEN_STRINGS["cls"], SPECIAL_TOKEN_STRINGS["sep"])
    ]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1" if template == ENCODER_TEMPLATE else f"{template} $B"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=ends)
    tokens = {
        token: AddedToken(token, lstrip=token == "[MASK]", special=True) for token in SPECIAL_TOKEN_STRINGS.values()
    }
    segments = ["token_type_ids"] if template == ENCODER_TEMPLATE else []
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", *segments, "attention_mask"],
        **{f"{role}_token": tokens[token] for role, token in TOKEN_ROLES.items()},
    )
