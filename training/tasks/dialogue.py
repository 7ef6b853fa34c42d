"""Conversations: what the assistant says is learnt, what it is told is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.causal_lm import PlaitForCausalLM
from ...processing import PlaitProcessor
from ..data.inputs import rows_in, token_rows, tokenizer_in
from ..data.labels import Labels
from ..data.loading import Data
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..data.tokenizer import PLAIN
from ..metrics.generation import NEW_TOKENS, GenerationMetrics, most_frequent, written
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import Guesses, Settings, Task, on_device
from .causal_lm import pad_of, prompts
from .generation import references_of

if TYPE_CHECKING:
    from datasets import Dataset

Messages = Sequence[Mapping[str, Any]]
# for a tokenizer without a template: "user: hello\nassistant: hi[SEP]\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@strict
@dataclass
class DialogueSettings(Settings):
    """`chat_template`: in the place of the tokenizer's own (Jinja, as in transformers). `prompt_template`: what is said
    around the column prompt, such as "Summarise this talk: {prompt}"."""

    chat_template: str | None = None
    prompt_template: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise RecipeError(f"settings.prompt_template: {self.prompt_template!r} has no place for {{prompt}}")

    def worded(self, row: Row) -> Row:
        """A row as it is said to the model."""
        if self.prompt_template is None or row.get("messages") is not None:
            return row
        return {**row, "prompt": self.prompt_template.replace("{prompt}", row["prompt"] or "")}


class Spoken(NamedTuple):
    """A conversation as tokens, and as labels: -100 where another than the assistant speaks."""

    input_ids: list[int]
    labels: list[int]


class Room(NamedTuple):
    """Tokens of a whole conversation, and of one that is to be gone on with."""

    text: int
    prompt: int


class Dialogue(Task):
    """The column messages in chat format (lists of {role, content}), or prompt and target for a single turn. The loss
    is that of the assistant's words; by generation its last reply is measured."""

    name: ClassVar[str] = "dialogue"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForCausalLM
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    roles: ClassVar[tuple[str, ...]] = ("messages", "prompt", "target")
    answered: ClassVar[tuple[str, ...]] = ("target",)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("messages", "prompt"), ("messages", "target"))
    asked: ClassVar[dict[str, str]] = {"text": "prompt"}
    metrics: ClassVar[tuple[str, ...]] = ("chrf", "distinct")
    settings: ClassVar[type[Settings]] = DialogueSettings
    writes: ClassVar[bool] = True
    scores_rows: ClassVar[bool] = True
    text_is_cached: ClassVar[bool] = False
    decoder_template: ClassVar[str] = PLAIN

    def texts(self, data: "Dataset", part: str) -> Iterator[str]:
        for row in rows_in(data):
            for messages in conversations(row):
                yield from (f"{message['role']}: {message['content']}" for message in messages)

    def finish_processor(self, processor: PlaitProcessor, recipe: Recipe) -> None:
        tokenizer = tokenizer_in(processor)
        chosen = self.make_settings(recipe.settings).chat_template or tokenizer.chat_template or CHAT_TEMPLATE
        tokenizer.chat_template = processor.chat_template = chosen

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        from datasets import Dataset

        tokenizer, limits = tokenizer_in(processor), room(processor, recipe)
        said = map(self.make_settings(recipe.settings).worded, rows_in(data))
        found = [checked_conversations(row, f"row {number} of {split!r}") for number, row in enumerate(said)]
        columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "labels", "prompt_ids", "references")}
        for row in found:
            for messages in row if split == "train" else row[:1]:
                ids, labels = spoken(tokenizer, messages)
                columns["input_ids"].append(ids[-limits.text :])  # the end is kept: it is what is answered
                columns["labels"].append(labels[-limits.text :])
                columns["prompt_ids"].append(rendered(tokenizer, messages[:-1], begin=True)[-limits.prompt :])
                columns["references"].append([other[-1]["content"] for other in row])
        return Dataset.from_dict(columns)

    def lengths(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        return [len(ids) for ids in data["input_ids"]]

    def batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        ids, mask = token_rows([row["input_ids"] for row in rows], pad_of(tokenizer_in(collator.processor)))
        labels = token_rows([row["labels"] for row in rows], -100).ids
        return {"labels": labels, "input_ids": ids, "attention_mask": mask}

    def evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        before = prompts([row["prompt_ids"] for row in rows], tokenizer_in(collator.processor))
        references = [row["references"] for row in rows]
        return {"inputs": self.batch(collator, rows), "prompt": before, "references": references}

    def make_metrics(
        self, names: Sequence[str], labels: Labels | None, processor: PlaitProcessor, recipe: Recipe
    ) -> GenerationMetrics:
        return GenerationMetrics(names or self.metrics, processor)

    def guesses(self, data: Data, split: "Dataset") -> Guesses:
        """The most frequent last reply of training to everything."""
        if data.train is None:
            return Guesses({}, [])
        best = most_frequent(references[0] for references in data.train["references"])
        return Guesses({"most_frequent": [best] * len(split)}, split["references"][:])

    def answers(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """The assistant's next words, under `generated_text`."""
        tokenizer = tokenizer_in(collator.processor)
        said = map(collator.settings.worded, rows)
        before = prompts([rendered(tokenizer, before_reply(row), begin=True) for row in said], tokenizer)
        texts = written(model, on_device(before, model), collator.processor)
        yield from ({"generated_text": text} for text in texts)

    def hub_task(self, modalities: tuple[str, ...]) -> str:
        return "text-generation"


def conversations(row: Row) -> list[Messages]:
    """A row's conversation; of a prompt with several right answers, one for each."""
    if row.get("messages") is not None:
        messages = list(row["messages"])
        spoken_last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        return [messages[: spoken_last + 1]]
    asked = {"role": "user", "content": row["prompt"]}
    return [[asked, {"role": "assistant", "content": reply}] for reply in references_of(row["target"] or "")]


def before_reply(row: Row) -> Messages:
    """What is to be answered: all messages, up to the assistant's last where that ends them."""
    if row.get("messages") is None:
        return [{"role": "user", "content": row["prompt"]}]
    messages = list(row["messages"])
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def checked_conversations(row: Row, where: str) -> list[Messages]:
    """The row's conversations; raises RecipeError where the assistant says nothing, or an empty line."""
    found = conversations(row)
    if not found or not all(found):
        raise RecipeError(f"data: in {where} no message is the assistant's: nothing could be learnt from it")
    for message in (message for messages in found for message in messages):
        if message["role"] == "assistant" and not (message["content"] or "").strip():
            raise RecipeError(f"data: in {where} the assistant has an empty message: remove it")
    return found


def room(processor: PlaitProcessor, recipe: Recipe) -> Room:
    """How much of a conversation the decoder can place; raises RecipeError where nothing is left for a prompt."""
    positions = tokenizer_in(processor).model_max_length
    new = recipe.generation.get("max_new_tokens", NEW_TOKENS)
    if new >= positions:
        raise RecipeError(f"generation.max_new_tokens is {new}, and of {positions} positions some are for the prompt")
    return Room(min(recipe.max_length or positions, positions), positions - new)


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages, begin: bool = False) -> list[int]:
    """The tokens of a conversation by the tokenizer's chat template; `begin` the assistant's next words."""
    reader: Any = tokenizer
    text = reader.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=begin)
    return reader(text, add_special_tokens=False, verbose=False)["input_ids"]


def spoken(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Spoken:
    """Tokens and labels: each of the assistant's replies is what a conversation up to it has more than one before it.

    Raises RecipeError for a template that writes the beginning of a conversation in another way once it goes on.
    """
    whole = rendered(tokenizer, messages)
    labels = [-100] * len(whole)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = rendered(tokenizer, messages[:number], begin=True), rendered(tokenizer, messages[: number + 1])
        if whole[: len(after)] != after or after[: len(before)] != before:
            raise RecipeError(
                f"settings.chat_template: message {number} changes the tokens of those before it, so the reply cannot "
                "be told apart; use a template that only adds to the text"
            )
        labels[len(before) : len(after)] = after[len(before) :]
    return Spoken(whole, labels)
