"""Finds what is explained in each row: a class, a text, an answer, a number, a pair."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ...configuration.messages import suggest_nearest
from ...modeling.attribution.target import Target, score
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...modeling.tasks.causal_lm import PlaitForCausalLM
from ...modeling.tasks.classification import PlaitForClassification
from ...modeling.tasks.conditional_generation import PlaitForConditionalGeneration
from ...modeling.tasks.masked_lm import PlaitForMaskedLM
from ...modeling.tasks.question_answering import PlaitForQuestionAnswering
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...processing import PlaitProcessor
from ...processing.calls import call_tokenizer
from ..data.inputs import encode_target_labels, require_tokenizer
from ..data.labels import REGRESSION, read_config_labels
from .encoding import EncodedRows


class FoundTargets(NamedTuple):
    """inputs: of the model, with those that the target adds, such as a decoder's text; target: of all rows; names: what
    the target of each row is, in words."""

    inputs: dict[str, Tensor]
    target: Target
    names: list[str]


def find_targets(model: Any, processor: PlaitProcessor, encoded: EncodedRows, target: Any = None) -> FoundTargets:
    """Finds the targets of encoded rows; None: what the model predicts. A list gives each row its own.

    A target is, by the model's class: a class by name or number; the number of a regressor's output; a text, or the
    number of a token of the generated text; the characters (first, past-last) of an answer in its context, or the
    answer; the word under each mask; None for retrieval, whose score is that of the row's pair.

    Raises ValueError for another target, or a model whose outputs are not explained.
    """
    kind = next((kind for kind in TARGET_FINDERS if isinstance(model, kind)), None)
    if kind is None:
        names = ", ".join(kind.__name__ for kind in TARGET_FINDERS)
        raise ValueError(f"{type(model).__name__} has no score of a row to explain: load the folder as one of {names}")
    count = len(encoded.rows)
    wanted = list(target) if isinstance(target, list) else [target] * count
    if len(wanted) != count:
        raise ValueError(f"{len(wanted)} targets for {count} rows: give one, or a list with one for each row")
    with torch.no_grad():
        return TARGET_FINDERS[kind](model, processor, encoded, wanted)


def find_score_unit(model: Any) -> str:
    """Returns the unit of a model's scores, as pages show it: nats, unless it predicts numbers or similarities."""
    if isinstance(model, PlaitForRetrieval):
        return "similarity"
    regresses = (
        isinstance(model, PlaitForClassification) and read_config_labels(model.config).problem_type == REGRESSION
    )
    return "of the output" if regresses else "nats"


def find_classes(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> FoundTargets:
    """Finds a class, or the output of a regressor, for each row."""
    labels = read_config_labels(model.config)
    if labels.problem_type == REGRESSION:
        outputs = [str(number) for number in range(model.classifier.out_features)]
        values = torch.tensor([0 if want is None else find_number(want, outputs, "output") for want in wanted])
        names = [f"output {number}" for number in values.tolist()]
        return FoundTargets(encoded.inputs, Target("value", values.to(model.device)), names)
    best = model(**encoded.inputs).logits.argmax(dim=-1).tolist() if None in wanted else [0] * len(wanted)
    pairs = zip(wanted, best, strict=True)
    numbers = [own if want is None else find_number(want, labels.names, "class") for want, own in pairs]
    target = Target("class", torch.tensor(numbers, device=model.device))
    return FoundTargets(encoded.inputs, target, [labels.names[number] for number in numbers])


def find_number(wanted: Any, names: Sequence[str], what: str) -> int:
    """Returns the number of a class or output that is given by name or number.

    Raises ValueError for one that the model does not have.
    """
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
        return wanted
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise ValueError(
        f"target {wanted!r} is no {what}: choose one of {some}, or its number{suggest_nearest(wanted, names)}"
    )


def find_pairs(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> FoundTargets:
    """Returns the pair of each row's two sides."""
    if any(want is not None for want in wanted):
        raise ValueError(f"target {wanted[0]!r}: of retrieval the score of each row's pair is explained, leave it out")
    target = Target("pair", torch.empty(len(wanted), 0, device=model.device))
    score(model, encoded.inputs, target)  # both sides are there
    return FoundTargets(encoded.inputs, target, [" and ".join(model.config.sides)] * len(wanted))


def find_spans(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> FoundTargets:
    """Finds the first and last token of an answer in each row's context."""
    outputs, found, names = model(**encoded.inputs), [], []
    for row, want in enumerate(wanted):
        words, context = encoded.words["context"][row], encoded.rows[row]["context"]
        if want is None:
            first, last = find_best_span(outputs.start_logits[row], outputs.end_logits[row], words.tokens >= 0)
        else:
            first, last = find_answer(want, context, words.spans, words.tokens)
        chars = (words.spans[words.tokens[first]][0], words.spans[words.tokens[last]][1])
        found.append((first, last))
        names.append(context[slice(*chars)])
    return FoundTargets(encoded.inputs, Target("span", torch.tensor(found, device=model.device)), names)


def find_best_span(starts: Tensor, ends: Tensor, inside: Tensor, longest: int = 30) -> tuple[int, int]:
    """Returns the likeliest first and last token of an answer of at most `longest` tokens inside the context.

    starts, ends: (length,) scores; inside: (length,) bool.
    """
    allowed = inside.to(starts.device)
    lowest = torch.finfo(starts.dtype).min
    sums = starts.masked_fill(~allowed, lowest)[:, None] / 2 + ends.masked_fill(~allowed, lowest) / 2
    band = torch.ones_like(sums, dtype=torch.bool).triu() & torch.ones_like(sums, dtype=torch.bool).tril(longest - 1)
    first, last = divmod(int(sums.masked_fill(~band, float("-inf")).argmax()), len(starts))
    return first, last


def find_answer(wanted: Any, context: str, spans: Sequence[tuple[int, int]], tokens: Tensor) -> tuple[int, int]:
    """Returns the first and last token of an answer, given as a text or as characters (first, past-last).

    Raises ValueError for an answer that is not in the context, or not in the part of it that the model reads.
    """
    if isinstance(wanted, str):
        start = context.find(wanted)
        wanted = (start, start + len(wanted)) if start >= 0 and wanted else None
    if not isinstance(wanted, tuple) or len(wanted) != 2:
        raise ValueError(
            "target: the answer is not in the context: give its text, or its characters (first, past-last)"
        )
    inside = [word for word, (first, past) in enumerate(spans) if first < wanted[1] and past > wanted[0]]
    places = torch.isin(tokens, torch.tensor(inside, dtype=torch.long)).nonzero()[:, 0].tolist()
    if not places:
        raise ValueError(f"target {wanted}: none of these characters of the context is read by the model: shorten it")
    return places[0], places[-1]


def find_masked(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> FoundTargets:
    """Finds the word under each mask of each row: the likeliest, or the one that is given for all masks of a row."""
    tokenizer, ids = cast("Any", require_tokenizer(processor)), encoded.inputs["input_ids"]
    if tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token, under which a word is predicted: set tokenizer.mask_token")
    masked = ids == tokenizer.mask_token_id
    lacking = (~masked.any(dim=1)).nonzero()[:, 0].tolist()
    if lacking:
        raise ValueError(
            f"row {lacking[0]} has no {tokenizer.mask_token} in its text: put one where a word is predicted"
        )
    best = model(**encoded.inputs).logits.argmax(dim=-1) if None in wanted else ids
    given = [None if want is None else find_token(tokenizer, want) for want in wanted]
    chosen = torch.stack(
        [own if want is None else torch.full_like(own, want) for own, want in zip(best, given, strict=True)]
    )
    values = chosen.masked_fill(~masked, IGNORE_INDEX)
    names = [tokenizer.decode(row[row >= 0]) for row in values]
    return FoundTargets(encoded.inputs, Target("tokens", values), names)


def find_token(tokenizer: Any, word: Any) -> int:
    """Returns the id of a word that is one token. Raises ValueError for any other."""
    ids = (
        [word] if isinstance(word, int) else call_tokenizer(tokenizer, str(word), add_special_tokens=False)["input_ids"]
    )
    if len(ids) != 1 or not 0 <= ids[0] < len(tokenizer):
        raise ValueError(f"target {word!r} is {len(ids)} tokens, and a mask stands for one: give a word of one token")
    return ids[0]


def find_decoded(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> FoundTargets:
    """Finds the text of a decoder that reads a context: what it generates, or the text that is given."""
    labels = find_decoded_labels(model, processor, encoded, wanted)
    added = model.build_decoder_inputs(labels, {})
    return build_text_targets(model, processor.target_tokenizer, wanted, {**encoded.inputs, **added}, labels)


def find_decoded_labels(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> Tensor:
    """Returns the tokens of each row's text, with the end of sequence, padded with -100."""
    texts = [want for want in wanted if isinstance(want, str)]
    if len(texts) == len(wanted):
        return encode_target_labels(processor, texts, None)["labels"].to(model.device)
    if texts:
        raise ValueError("targets are texts for some rows only: give a text for all rows, or for none")
    tokens = model.generate(**encoded.inputs)
    start = model.config.decoder_start_token_id
    return end_rows(tokens[:, 1:] if start is not None and bool((tokens[:, 0] == start).all()) else tokens, model)


def find_continued(model: Any, processor: PlaitProcessor, encoded: EncodedRows, wanted: Sequence[Any]) -> FoundTargets:
    """Finds the text that continues each row's prompt: what the model generates, or the text that is given."""
    inputs, tokenizer = dict(encoded.inputs), cast("Any", require_tokenizer(processor))
    length = inputs["input_ids"].shape[1]
    texts = [want for want in wanted if isinstance(want, str)]
    if texts and len(texts) < len(wanted):
        raise ValueError("targets are texts for some rows only: give a text for all rows, or for none")
    if texts:
        lists = [call_tokenizer(tokenizer, text, add_special_tokens=False)["input_ids"] for text in texts]
        new = torch.full((len(lists), max(map(len, lists))), IGNORE_INDEX, device=model.device)
        for row, ids in enumerate(lists):
            new[row, : len(ids)] = torch.tensor(ids)
    else:
        new = end_rows(model.generate(**inputs)[:, length:], model)
    known = new != IGNORE_INDEX
    inputs["input_ids"] = torch.cat((inputs["input_ids"], new.masked_fill(~known, tokenizer.pad_token_id)), dim=1)
    inputs["attention_mask"] = torch.cat((inputs["attention_mask"], known.to(inputs["attention_mask"])), dim=1)
    if "token_type_ids" in inputs:
        inputs["token_type_ids"] = F.pad(inputs["token_type_ids"], (0, new.shape[1]))
    labels = F.pad(new, (length - 1, 1), value=IGNORE_INDEX)
    return build_text_targets(model, tokenizer, wanted, inputs, labels)


def end_rows(tokens: Tensor, model: Any) -> Tensor:
    """Returns generated tokens, (rows, length), with -100 behind each row's first end of sequence."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    ended = torch.isin(tokens, tokens.new_tensor(ends)).int()
    return tokens.masked_fill(ended.cumsum(dim=1) - ended > 0, IGNORE_INDEX)


def build_text_targets(
    model: Any, tokenizer: Any, wanted: Sequence[Any], inputs: dict[str, Tensor], labels: Tensor
) -> FoundTargets:
    """Returns the targets of texts whose tokens are the labels, (rows, length), -100 elsewhere; of a number, that token
    of its text alone. Special tokens do not count, but for the end of a text.

    Raises ValueError for a text without a token, or a token beyond its end.
    """
    special = labels.new_tensor(sorted({*tokenizer.all_special_ids} - {tokenizer.eos_token_id, tokenizer.unk_token_id}))
    values = labels.masked_fill(torch.isin(labels, special), IGNORE_INDEX)
    for row, want in enumerate(wanted):
        places = (values[row] != IGNORE_INDEX).nonzero()[:, 0]
        if not len(places):
            raise ValueError(f"row {row}: its text has no tokens, so there is nothing to explain: give a target")
        if isinstance(want, int):
            if not 0 <= want < len(places):
                raise ValueError(f"target {want}: the text of row {row} has tokens 0 to {len(places) - 1}")
            one = torch.arange(values.shape[1], device=values.device) == places[want]
            values[row] = values[row].masked_fill(~one, IGNORE_INDEX)
        elif want is not None and not isinstance(want, str):
            raise ValueError(f"target {want!r}: give a text, the number of a token of the generated text, or None")
    names = [tokenizer.decode(row[row != IGNORE_INDEX], skip_special_tokens=False) for row in values]
    return FoundTargets(inputs, Target("tokens", values), names)


TARGET_FINDERS: dict[type, Callable[..., FoundTargets]] = {
    PlaitForClassification: find_classes,
    PlaitForRetrieval: find_pairs,
    PlaitForQuestionAnswering: find_spans,
    PlaitForMaskedLM: find_masked,
    PlaitForConditionalGeneration: find_decoded,
    PlaitForCausalLM: find_continued,
}
