"""Text continued, word by word (GPT-style)."""

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
    """`block_size`: the texts are joined, an end of sequence after each, and cut into rows of so many tokens; None: one
    row a text, cut at `max_length` or at the decoder's positions."""

    block_size: int | None = None


class CausalLM(Task):
    """The column text is learnt by heart, and gone on with."""

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

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> list[str | None]:
        return data["text"][:]

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        from datasets import Dataset

        tokenizer, settings = require_tokenizer(processor), self.build_settings(recipe.settings)
        limit = min(recipe.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        rows = tokenize_documents(tokenizer, data["text"])
        if settings.block_size is None:
            rows = (row[:limit] for row in rows)
        elif not 2 <= settings.block_size <= limit:
            raise RecipeError(f"settings.block_size is {settings.block_size}: expected 2 .. {limit}, the positions")
        else:
            rows = split_blocks(chain.from_iterable(rows), settings.block_size)
        kept = [row for row in rows if len(row) > 1]  # of a single token nothing is predicted
        if not kept:
            raise RecipeError(f"data: the split {split!r} has no text")
        return Dataset.from_dict({"input_ids": kept})

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        return [len(ids) for ids in data["input_ids"]]

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        tokenizer = require_tokenizer(collator.processor)
        ids = [row["input_ids"] for row in rows]
        labels = pad_token_rows(ids, -100)
        return {
            "labels": labels.ids,
            "input_ids": pad_token_rows(ids, get_pad_token(tokenizer)).ids,
            "attention_mask": labels.mask,
        }

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        return {"inputs": self.build_batch(collator, rows)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> GenerationMetrics:
        others = [name for name in names if name != "perplexity"]
        if others:
            raise ValueError(f"a language model is measured by its perplexity, not by {', '.join(others)}")
        return GenerationMetrics([], processor)

    def measure_baselines(self, metrics: GenerationMetrics, data: DataSplits, split: "Dataset") -> Scores:
        found = {
            name: rows["perplexity"].compute() for name, rows in self.score_baseline_rows(metrics, data, split).items()
        }
        return {name: {"loss": math.log(value), "perplexity": value} for name, value in found.items()}

    def score_baseline_rows(
        self, metrics: GenerationMetrics, data: DataSplits, split: "Dataset"
    ) -> dict[str, RowScores]:
        """Each token by its frequency in training, whatever stands before it, and by that after the token before."""
        if data.train is None:
            return {}
        train, asked = data.train["input_ids"][:], split["input_ids"][:]
        size = 1 + max(map(max, (*train, *asked)))
        counts, tokens = BigramModel(train, size), [len(ids) - 1 for ids in asked]
        return {
            name: build_perplexity_scores([float(losses(ids).sum()) for ids in map(np.asarray, asked)], tokens)
            for name, losses in (("unigram", counts.unigram), ("bigram", counts.bigram))
        }

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """How the model goes on, under `generated_text`."""
        tokenizer = require_tokenizer(collator.processor)
        ids = tokenizer([row["text"] or "" for row in rows])["input_ids"]
        prompt = pad_prompts([row or [get_begin_token(tokenizer)] for row in ids], tokenizer)
        texts = generate_texts(model, move_to_device(prompt, model), collator.processor, strip=False)
        yield from ({"generated_text": text} for text in texts)

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        return "text-generation"


def tokenize_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | None]) -> Iterator[list[int]]:
    """The tokens of each text, with what the tokenizer puts before and the end of sequence."""
    reader: Any = tokenizer
    part = 1000
    for start in range(0, len(texts), part):
        given = [text for text in texts[start : start + part] if text and text.strip()]
        for ids in reader(given, verbose=False)["input_ids"] if given else []:
            yield ids if ids[-1] == reader.eos_token_id else [*ids, reader.eos_token_id]


def split_blocks(tokens: Iterator[int], size: int) -> Iterator[list[int]]:
    """So many tokens a row; the last row may be shorter."""
    row: list[int] = []
    for token in tokens:
        row.append(token)
        if len(row) == size:
            yield row
            row = []
    if row:
        yield row


def pad_prompts(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Rows to go on from, padded on the left."""
    ids, mask = pad_token_rows(rows, get_pad_token(tokenizer), left=True)
    return {"input_ids": ids, "attention_mask": mask}


def get_pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills up a row (there always is one in a PlaitProcessor)."""
    padding: Any = tokenizer.pad_token_id
    return padding


def get_begin_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token from which a text is written out of nothing."""
    begin: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return begin
