"""The task of causal language modeling: predict the next token (GPT-style)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.causal_lm import PlaitForCausalLM
from ...processing import PlaitProcessor
from ...processing.calls import call_tokenizer
from ..data.inputs import pad_token_rows, require_tokenizer
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..data.tokenizer import PREFIX_TEMPLATE
from ..metrics.generation import GenerationMetrics, generate_texts
from ..metrics.ngrams import BigramModel
from ..metrics.per_row import RowScores, build_perplexity_scores
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import Scores, Settings, Task, move_to_device

if TYPE_CHECKING:
    from datasets import Dataset


@strict
@dataclass
class CausalLMSettings(Settings):
    """`block_size`: the texts are joined, an end of sequence after each, and split into rows of this number of tokens;
    None: one row for each text, truncated to `max_length` or the decoder's positions."""

    block_size: int | None = None


class CausalLM(Task):
    """Causal language modeling on the column `text`; in prediction, the model continues a prompt."""

    name: ClassVar[str] = "causal_lm"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForCausalLM
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    roles: ClassVar[tuple[str, ...]] = ("text",)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)
    settings: ClassVar[type[Settings]] = CausalLMSettings
    generates: ClassVar[bool] = True
    has_row_scores: ClassVar[bool] = True
    can_cache_text: ClassVar[bool] = False
    decoder_template: ClassVar[str] = PREFIX_TEMPLATE

    def check_inputs(self, names: Sequence[str], model: PlaitPreTrainedModel) -> None:
        """Checks nothing: the decoder reads the text."""

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> list[str | None]:
        """Returns the column `text`."""
        return data["text"][:]

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Tokenizes the texts into rows of `input_ids`.

        Raises RecipeError for a `block_size` out of range, or a split without text.
        """
        from datasets import Dataset

        tokenizer, settings = require_tokenizer(processor), self.build_settings(recipe.settings)
        limit = min(recipe.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        rows = tokenize_documents(tokenizer, data["text"])
        if settings.block_size is None:
            rows = (row[:limit] for row in rows)
        elif not 2 <= settings.block_size <= limit:
            raise RecipeError(
                f"settings.block_size is {settings.block_size}: expected 2 .. {limit} (max_length, or the positions of "
                "the decoder)"
            )
        else:
            rows = split_blocks(chain.from_iterable(rows), settings.block_size)
        kept = [row for row in rows if len(row) > 1]  # a single token has no next one
        if not kept:
            raise RecipeError(f"data: the split {split!r} has no text: give rows whose column text is not empty")
        return Dataset.from_dict({"input_ids": kept})

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Counts the tokens of each row."""
        return [len(ids) for ids in data["input_ids"]]

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `input_ids`, `attention_mask` and `labels`, each (batch, length), padded on the right."""
        tokenizer = require_tokenizer(collator.processor)
        ids = [row["input_ids"] for row in rows]
        labels = pad_token_rows(ids, -100)
        return {
            "labels": labels.ids,
            "input_ids": pad_token_rows(ids, get_pad_token(tokenizer)).ids,
            "attention_mask": labels.mask,
        }

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model with labels."""
        return {"inputs": self.build_batch(collator, rows)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> GenerationMetrics:
        """Builds the metrics: loss and perplexity.

        Raises ValueError for another metric.
        """
        others = [name for name in names if name != "perplexity"]
        if others:
            raise ValueError(
                f"a language model is measured by its perplexity, not by {', '.join(others)}: leave metrics out"
            )
        return GenerationMetrics([], processor)

    def measure_baselines(self, metrics: GenerationMetrics, data: DataSplits, split: "Dataset") -> Scores:
        """Computes loss and perplexity of the unigram and bigram baselines."""
        found = {
            name: rows["perplexity"].compute() for name, rows in self.score_baseline_rows(metrics, data, split).items()
        }
        return {name: {"loss": math.log(value), "perplexity": value} for name, value in found.items()}

    def score_baseline_rows(
        self, metrics: GenerationMetrics, data: DataSplits, split: "Dataset"
    ) -> dict[str, RowScores]:
        """Computes the per-row perplexity of a unigram and a bigram model counted on the training split."""
        if data.train is None:
            return {}
        train, measured = data.train["input_ids"][:], split["input_ids"][:]
        size = 1 + max(map(max, (*train, *measured)))
        counts, tokens = BigramModel(train, size), [len(ids) - 1 for ids in measured]
        return {
            name: build_perplexity_scores([float(losses(ids).sum()) for ids in map(np.asarray, measured)], tokens)
            for name, losses in (("unigram", counts.unigram), ("bigram", counts.bigram))
        }

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields the continuation of each row's text, `generated_text`."""
        tokenizer = require_tokenizer(collator.processor)
        ids = call_tokenizer(tokenizer, [row["text"] or "" for row in rows])["input_ids"]
        prompt = pad_prompts([row or [get_begin_token(tokenizer)] for row in ids], tokenizer)
        texts = generate_texts(model, move_to_device(prompt, model), collator.processor, strip=False)
        yield from ({"generated_text": text} for text in texts)

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "text-generation"."""
        return "text-generation"


def tokenize_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | None]) -> Iterator[list[int]]:
    """Yields the tokens of each text that is not empty, with the tokenizer's special tokens and an end of sequence."""
    reader: Any = tokenizer
    part = 1000
    for start in range(0, len(texts), part):
        given = [text for text in texts[start : start + part] if text and text.strip()]
        for ids in call_tokenizer(reader, given, verbose=False)["input_ids"] if given else []:
            yield ids if ids[-1] == reader.eos_token_id else [*ids, reader.eos_token_id]


def split_blocks(tokens: Iterator[int], size: int) -> Iterator[list[int]]:
    """Yields rows of `size` tokens; the last row may be shorter."""
    row: list[int] = []
    for token in tokens:
        row.append(token)
        if len(row) == size:
            yield row
            row = []
    if row:
        yield row


def pad_prompts(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Builds `input_ids` and `attention_mask`, (batch, length), of the prompts to continue, padded on the left."""
    ids, mask = pad_token_rows(rows, get_pad_token(tokenizer), left=True)
    return {"input_ids": ids, "attention_mask": mask}


def get_pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the padding token (the tokenizer of a PlaitProcessor always has one)."""
    padding: Any = tokenizer.pad_token_id
    return padding


def get_begin_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token from which a text is generated without a prompt."""
    begin: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return begin
