"""The task of dialogue: predict the replies of the assistant in a conversation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.causal_lm import PlaitForCausalLM
from ...processing import PlaitProcessor
from ...processing.calls import call_tokenizer
from ...processing.inline import ImageToken
from ..data.inputs import collect_rows, pad_token_rows, require_tokenizer
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row, find_columns
from ..data.row_encoder import RowEncoder
from ..data.tokenizer import TARGET_TEMPLATE
from ..metrics.generation import DEFAULT_NEW_TOKENS, GenerationMetrics, find_most_frequent, generate_texts
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import IMAGE_ROLES, BaselinePredictions, Settings, Task, move_to_device
from .causal_lm import get_pad_token, pad_prompts
from .generation import list_references
from .inline_images import (
    IMAGE_PROMPT,
    attach_images,
    check_images_kept,
    count_images_in,
    count_row_images,
    encode_row_images,
    find_image_token,
    list_image_columns,
    place_images,
    read_message,
    repeat_image_labels,
    repeat_image_tokens,
)

if TYPE_CHECKING:
    from datasets import Dataset

Messages = Sequence[Mapping[str, Any]]
# the chat template of a tokenizer without one: "user: hello\nassistant: hi[SEP]\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@strict
@dataclass
class DialogueSettings(Settings):
    """`chat_template`: replaces the tokenizer's own (Jinja, as in transformers). `prompt_template`: text around the
    column `prompt`, such as "Summarise this talk: {prompt}". `prompt`: of rows with images and without a prompt.

    Raises:
        RecipeError: a prompt_template without {prompt}.
    """

    chat_template: str | None = None
    prompt_template: str | None = None
    prompt: str = IMAGE_PROMPT

    def __post_init__(self) -> None:
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise RecipeError(
                f"settings.prompt_template: {self.prompt_template!r} has no place for {{prompt}}: add {{prompt}} to it"
            )

    def complete_row(self, row: Row, images: int = 0, token: ImageToken | None = None) -> Row:
        """Returns a row with its prompt, or that of rows with images, in the template; of a row with messages, each
        message has one text (see `read_message`)."""
        if row.get("messages") is not None:
            return {**row, "messages": [read_message(message, token) for message in row["messages"]]}
        prompt = row.get("prompt") or (self.prompt if images else row.get("prompt"))
        if self.prompt_template is not None:
            prompt = self.prompt_template.replace("{prompt}", prompt or "")
        return {**row, "prompt": prompt}


class TokenizedConversation(NamedTuple):
    """The tokens of a conversation, and their labels: -100 for all tokens that are not the assistant's."""

    input_ids: list[int]
    labels: list[int]


class ConversationLimits(NamedTuple):
    """The largest number of tokens of a whole conversation, `text`, and of one to be continued, `prompt`."""

    text: int
    prompt: int


class Dialogue(Task):
    """Dialogue on the column `messages` in chat format (lists of {role, content}), or on `prompt` and `target` for a
    single turn. The loss is that of the assistant's replies; the metrics compare its generated last reply.

    With an image tower, `image` holds the images of each row, in the place of the image tokens in its texts, or before
    the first message of the user if there are none; `image` and `target` alone are captions."""

    name: ClassVar[str] = "dialogue"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForCausalLM
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    roles: ClassVar[tuple[str, ...]] = ("messages", "prompt", "target", *IMAGE_ROLES)
    target_columns: ClassVar[tuple[str, ...]] = ("target",)
    reference_column: ClassVar[str | None] = "references"
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("messages", "prompt", "image"), ("messages", "target"))
    prompt_columns: ClassVar[dict[str, str]] = {"text": "prompt", "image": "image"}
    metrics: ClassVar[tuple[str, ...]] = ("chrf", "distinct")
    settings: ClassVar[type[Settings]] = DialogueSettings
    generates: ClassVar[bool] = True
    has_row_scores: ClassVar[bool] = True
    can_cache_text: ClassVar[bool] = False
    decoder_template: ClassVar[str] = TARGET_TEMPLATE

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> Iterator[str]:
        """Yields all messages as "role: content"."""
        for row in collect_dialogue_rows(data, DialogueSettings(), None):
            for messages in build_conversations(row):
                yield from (f"{message['role']}: {message['content']}" for message in messages)

    def finish_processor(self, processor: PlaitProcessor, recipe: Recipe) -> None:
        """Sets the chat template: of the settings, else of the tokenizer, else CHAT_TEMPLATE."""
        tokenizer = require_tokenizer(processor)
        chosen = self.build_settings(recipe.settings).chat_template or tokenizer.chat_template or CHAT_TEMPLATE
        tokenizer.chat_template = processor.chat_template = chosen

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Tokenizes the conversations; of a row with several targets each is a training row.

        Raises RecipeError for a conversation without a reply of the assistant, or with an empty one.
        """
        self.check_read_columns(data, split, recipe)
        return self.tokenize_rows(data, split, processor, recipe)

    def check_read_columns(self, data: "Dataset", split: str, recipe: Recipe) -> None:
        """Raises RecipeError for a prompt or target that is mapped beside messages."""
        unread = [name for name in self.roles if name in recipe.data.columns and name in ("prompt", "target")]
        if unread and "messages" in data.column_names and None not in data["messages"][:]:
            raise RecipeError(
                f"data.columns: nothing reads {unread[0]}, as every row of {split!r} has messages: map messages, or "
                f"{' and '.join(name for name in ('prompt', 'target') if name in self.roles)}"
            )

    def tokenize_rows(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Tokenizes the conversations of a split, as `prepare`."""
        from datasets import Dataset

        settings, limits = self.build_settings(recipe.settings), compute_limits(processor, recipe)
        token, images = find_image_token(processor), count_row_images(data)
        columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "labels", "prompt_ids", "references")}
        numbers: list[int] = []
        for number, row in enumerate(collect_dialogue_rows(data, settings, token)):
            where = f"row {number} of {split!r}"
            found = check_conversations(row, where)
            if token is not None:
                found = [place_images(messages, images[number], token, where) for messages in found]
            for messages in found if split == "train" else found[:1]:
                made = tokenize_limited(processor, messages, limits, images[number], where)
                for name, value in made._asdict().items():
                    columns[name].append(value)
                columns["references"].append([other[-1]["content"] for other in found])
                numbers.append(number)
        return attach_images(Dataset.from_dict(columns), data, numbers)

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Counts the tokens of each conversation."""
        return [len(ids) for ids in data["input_ids"]]

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `input_ids`, `attention_mask` and `labels`, each (batch, length), padded on the right, and the inputs
        of the images."""
        ids, mask = pad_token_rows(
            [row["input_ids"] for row in rows], get_pad_token(require_tokenizer(collator.processor))
        )
        labels = pad_token_rows([row["labels"] for row in rows], -100).ids
        return {"labels": labels, "input_ids": ids, "attention_mask": mask, **encode_row_images(collator, rows)}

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model with labels, the `prompt` before the last reply, and its `references`."""
        prompt = pad_prompts([row["prompt_ids"] for row in rows], require_tokenizer(collator.processor))
        inputs = self.build_batch(collator, rows)
        images = {name: value for name, value in inputs.items() if name not in ("labels", *prompt)}
        references = [row["references"] for row in rows]
        return {"inputs": inputs, "prompt": {**prompt, **images}, "references": references}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> GenerationMetrics:
        """Builds the metrics of generated replies, by default chrF and the share of distinct replies."""
        return GenerationMetrics(names or self.metrics, processor)

    def baseline_predictions(self, data: DataSplits, split: "Dataset") -> BaselinePredictions:
        """Predicts the most frequent last reply in training for every row."""
        if data.train is None:
            return BaselinePredictions({}, [])
        best = find_most_frequent(references[0] for references in data.train["references"])
        return BaselinePredictions({"most_frequent": [best] * len(split)}, split["references"][:])

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields the assistant's next reply to each row, `generated_text`."""
        tokenizer, token = require_tokenizer(collator.processor), find_image_token(collator.processor)
        prompts = []
        for number, row in enumerate(rows):
            images = sum(count_images_in(row[name]) for name in list_image_columns(list(row)))
            messages = select_prompt_messages(collator.settings.complete_row(row, images, token))
            if token is not None:
                messages = place_images(messages, images, token, f"row {number}")
            prompts.append(repeat_image_tokens(render_conversation(tokenizer, messages, begin=True), token))
        prompt = {**pad_prompts(prompts, tokenizer), **encode_row_images(collator, rows)}
        texts = generate_texts(model, move_to_device(prompt, model), collator.processor)
        yield from ({"generated_text": text} for text in texts)

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "image-text-to-text" for a model with an image tower, else "text-generation"."""
        return "image-text-to-text" if "image" in modalities else "text-generation"


def collect_dialogue_rows(data: "Dataset", settings: DialogueSettings, token: ImageToken | None) -> Iterator[Row]:
    """Yields the rows of a data set, completed by the settings, without their images."""
    images = find_columns(data.column_names, "image")
    texts = data.select_columns([name for name in data.column_names if name not in images])
    for row, count in zip(collect_rows(texts), count_row_images(data), strict=True):
        yield settings.complete_row(row, count, token)


def build_conversations(row: Row) -> list[Messages]:
    """Builds the conversations of a row: its messages up to the assistant's last, or one for each target."""
    if row.get("messages") is not None:
        messages = list(row["messages"])
        last_reply = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        return [messages[: last_reply + 1]]
    prompt = {"role": "user", "content": row["prompt"]}
    return [[prompt, {"role": "assistant", "content": reply}] for reply in list_references(row["target"] or "")]


def select_prompt_messages(row: Row) -> Messages:
    """Selects the messages to reply to: all, without a last one of the assistant."""
    if row.get("messages") is None:
        return [{"role": "user", "content": row["prompt"]}]
    messages = list(row["messages"])
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def check_conversations(row: Row, where: str) -> list[Messages]:
    """Returns the conversations of a row; raises RecipeError if the assistant has no message, or an empty one."""
    found = build_conversations(row)
    if not found or not all(found):
        raise RecipeError(
            f"data: in {where} no message has the role 'assistant', so nothing can be learned: remove the row"
        )
    for message in (message for messages in found for message in messages):
        if message["role"] == "assistant" and not (message["content"] or "").strip():
            raise RecipeError(f"data: in {where} the assistant has an empty message: remove it")
    return found


class TokenizedRow(NamedTuple):
    """The tokens and labels of a training row, cut to the decoder's positions, and those of its prompt."""

    input_ids: list[int]
    labels: list[int]
    prompt_ids: list[int]


def tokenize_limited(
    processor: PlaitProcessor, messages: Messages, limits: ConversationLimits, images: int, where: str
) -> TokenizedRow:
    """Tokenizes a conversation and its prompt, with the tokens of its images. Of long ones the end is kept, with the
    last reply.

    Raises RecipeError as `tokenize_conversation` does, or if tokens of an image are cut off.
    """
    tokenizer, token = require_tokenizer(processor), find_image_token(processor)
    ids, labels = tokenize_conversation(tokenizer, messages)
    prompt = repeat_image_tokens(render_conversation(tokenizer, messages[:-1], begin=True), token)
    labels = repeat_image_labels(ids, labels, token)
    ids = repeat_image_tokens(ids, token)
    made = TokenizedRow(ids[-limits.text :], labels[-limits.text :], prompt[-limits.prompt :])
    check_images_kept(made.input_ids, images, token, where, limits.text)
    check_images_kept(made.prompt_ids, images, token, where, limits.prompt)
    return made


def compute_limits(processor: PlaitProcessor, recipe: Recipe) -> ConversationLimits:
    """Computes how many tokens of a conversation fit the decoder; raises RecipeError if none is left for a prompt."""
    positions = require_tokenizer(processor).model_max_length
    new = recipe.generation.get("max_new_tokens", DEFAULT_NEW_TOKENS)
    if new >= positions:
        raise RecipeError(
            f"generation.max_new_tokens is {new}, which leaves none of the decoder's {positions} positions for the "
            "prompt: lower it"
        )
    return ConversationLimits(min(recipe.max_length or positions, positions), positions - new)


def render_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, begin: bool = False) -> str:
    """Returns a conversation as the text of the tokenizer's chat template; with `begin` up to where the assistant's
    next reply starts."""
    reader: Any = tokenizer
    return reader.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=begin)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the tokens of a text, without special tokens beside those that it names."""
    return call_tokenizer(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages, begin: bool = False) -> list[int]:
    """Returns the tokens of `render_text`."""
    return encode_text(tokenizer, render_text(tokenizer, messages, begin))


def tokenize_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> TokenizedConversation:
    """Tokenizes a conversation. The labels of a reply are the tokens by which the conversation up to and with it is
    longer than the conversation before it.

    Raises RecipeError for a chat template in which a later message changes the text of earlier ones.
    """
    whole = render_conversation(tokenizer, messages)
    labels = [-100] * len(whole)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = (
            render_conversation(tokenizer, messages[:number], begin=True),
            render_conversation(tokenizer, messages[: number + 1]),
        )
        if whole[: len(after)] != after or after[: len(before)] != before:
            return tokenize_pieces(tokenizer, messages)
        labels[len(before) : len(after)] = after[len(before) :]
    return TokenizedConversation(whole, labels)


def tokenize_pieces(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> TokenizedConversation:
    """Tokenizes a conversation in pieces, each up to where a reply begins or ends, as `generate` continues a prompt:
    for tokenizers that join the end of a prompt and the beginning of a reply ("assistant: ", "hi") into one token.

    Raises RecipeError as `tokenize_conversation` does.
    """
    whole, ids, labels, start = render_text(tokenizer, messages), [], [], 0
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = (
            render_text(tokenizer, messages[:number], begin=True),
            render_text(tokenizer, messages[: number + 1]),
        )
        if not (whole.startswith(after) and after.startswith(before)):
            raise RecipeError(
                f"settings.chat_template: message {number} changes the tokens of those before it, so the tokens of the "
                "reply cannot be determined: use a template that only appends text"
            )
        asked, said = (encode_text(tokenizer, text) for text in (before[start:], after[len(before) :]))
        ids, labels, start = [*ids, *asked, *said], [*labels, *[-100] * len(asked), *said], len(after)
    rest = encode_text(tokenizer, whole[start:])
    return TokenizedConversation([*ids, *rest], [*labels, *[-100] * len(rest)])
