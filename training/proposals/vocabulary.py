"""Whether the vocabulary of a pretrained text tower fits the texts of a table, such as their language."""

from collections.abc import Iterable, Sequence
from typing import Any

from ...processing.calls import call_tokenizer
from ..recipes.errors import RecipeError
from ..runs.building import resolve_reference
from .columns import count_words
from .table import SourceTable, sample_cells
from .towers import TowerChoice

WORD_EDGES = ".,;:!?\"'()[]«»„“”…-–"
SAMPLE_TEXTS = 200
# for a word of letters: in MiniLM's English vocabulary English has 1.03 to 1.16, French 1.58, German 1.9, Russian 4.2
MOST_TOKENS = 1.4
MOST_UNKNOWN = 0.05  # of the tokens


def describe_vocabulary(table: SourceTable, columns: Iterable[str], tower: TowerChoice | None) -> list[str]:
    """Returns a note if the tower's vocabulary breaks the texts of these columns into pieces, or does not have them;
    nothing for a new tower, or one whose tokenizer is not on this machine."""
    texts = [str(cell) for name in columns for cell in sample_cells(table.rows, name, SAMPLE_TEXTS)]
    tokenizer = None if tower is None or tower.is_new or not texts else load_local_tokenizer(str(tower.source))
    if tokenizer is None or tower is None:
        return []
    tokens, unknown = measure_vocabulary(tokenizer, texts)
    if tokens <= MOST_TOKENS and unknown <= MOST_UNKNOWN:
        return []
    return [
        f"the vocabulary of {tower.source} does not fit these texts ({tokens:.1f} tokens a word, {unknown:.0%} of them "
        f"unknown; English has about 1.1): if they are in another language, name a tower of it, or a multilingual one "
        "(--model.text NAME)"
    ]


def load_local_tokenizer(source: str) -> Any:
    """Returns the tokenizer of a folder, an installed package or the Hub's cache; None if it is not on this machine."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve_reference(source), local_files_only=True)
    except (OSError, ValueError, RecipeError):  # building the model says what is wrong with it
        return None


def measure_vocabulary(tokenizer: Any, texts: Sequence[str]) -> tuple[float, float]:
    """Returns the number of tokens for a word of letters, and the share of the tokens that stand for what is not in the
    vocabulary."""
    parts = [part.strip(WORD_EDGES) for text in texts for part in text.split()]
    words = [part for part in parts if part.isalpha()]  # no numbers, addresses and hashtags, which are always broken up
    rows = call_tokenizer(tokenizer, words, add_special_tokens=False, verbose=False)["input_ids"] if words else []
    count = sum(map(len, rows))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in rows) if tokenizer.unk_token_id is not None else 0
    return count / max(sum(map(count_words, words)), 1), unknown / max(count, 1)
