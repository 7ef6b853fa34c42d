"""`plait.explain`: explains the answers of a model on rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...configuration.messages import suggest_nearest
from ...modeling.attribution.baselines import check_baseline, list_baselines
from ...modeling.attribution.gradients import Attributed
from ...modeling.attribution.methods import (
    DEFAULT_METHOD,
    METHODS,
    AttributionCall,
    MethodSettings,
    attribute,
    count_baselines,
)
from ...modeling.attribution.scored_row import ScoredRow
from ...modeling.attribution.state import explained
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.media import Row
from .encoding import EncodedRows, Part, encode_numbered_row
from .formatting import AttributionFormatter
from .parts import DEFAULT_BASELINES, build_baselines, build_features
from .results import Explanation, RowExplanation
from .targets import FoundTargets, find_targets


def explain(
    model: Any,
    processor: PlaitProcessor,
    rows: Row | Sequence[Row],
    target: Any = None,
    method: str | None = None,
    baseline: str | Mapping[str, str] | None = None,
    modalities: str | Sequence[str] | None = None,
    *,
    generator: torch.Generator | None = None,
    max_length: int | None = None,
    **settings: Any,
) -> Explanation:
    """Explains a model's answers: how much each word, pixel, moment and frame adds to their score.

        explanation = plait.explain(model, processor, {"text": "What shape is it?", "image": "shapes.png"})
        explanation[0].attributions["text"].values

    Args:
        model, processor: of any class that has a score; the model is left as it was.
        rows: a row, or a list of rows, each a dict with the columns of the model's task and their values.
        target: what is explained; None: what the model predicts. A class by name or number, the number of a regressor's
            output, a text or the number of a generated token, an answer or its characters (first, past-last); a list
            gives each row its own.
        method: "integrated_gradients", "gradient_shap", "occlusion" (the default), "perturbation" (kernel SHAP, or
            LIME with kernel="lime"), "attention_rollout" or "attention_relevance".
        baseline: what stands for an input that is taken away, by name or by modality: see `DEFAULT_BASELINES` and
            `plait.modeling.attribution.baselines`. The methods of attention have none.
        modalities: the inputs to explain, by modality or column; the others stay as they are. None: all.
        generator: of random numbers; each row gets the same, so that its explanation does not depend on the others.
        max_length: tokens of a text at most; None: the tokenizer's limit.
        settings: the fields of `MethodSettings`: num_steps, num_samples, batch_size, ...

    Returns the explanations of all rows; see `RowExplanation`.

    Raises:
        ValueError: no rows, an unknown method, target, baseline, modality or setting, or no gradient that reaches the
            inputs.
        TypeError: a model that is none of plait.
        ImportError: a method that captum computes, without captum.
    """
    if not isinstance(model, PlaitPreTrainedModel):
        raise TypeError(f"{type(model).__name__} is no plait model: pass the one inside it (PEFT: get_base_model())")
    given = [rows] if isinstance(rows, Mapping) else list(rows)
    name = check_method(DEFAULT_METHOD if method is None else method)
    call = ExplainCall(
        model, processor, name, build_settings(settings), find_baselines(baseline), modalities, max_length
    )
    call.seed = 0 if generator is None else int(torch.randint(2**31, (1,), generator=generator))
    with explained(model):
        found = call.explain_rows(given, target)
    return Explanation(found, name, call.baselines, asdict(call.settings))


def check_method(name: str) -> str:
    """Returns the name of a method. Raises ValueError for an unknown one."""
    if name not in METHODS:
        raise ValueError(f"no method {name!r}: choose {', '.join(METHODS)}{suggest_nearest(name, METHODS)}")
    return name


def build_settings(given: Mapping[str, Any]) -> MethodSettings:
    """Returns the settings of the methods. Raises ValueError for one that there is not."""
    known = [field.name for field in fields(MethodSettings)]
    for name in given:
        if name not in known:
            raise ValueError(f"no setting {name!r}: the settings are {', '.join(known)}{suggest_nearest(name, known)}")
    return MethodSettings(**given)


def find_baselines(given: str | Mapping[str, str] | None) -> dict[str, str]:
    """Returns the baseline of each modality: one name is that of all modalities that have it.

    Raises ValueError for a modality or a baseline that there is not.
    """
    if given is None:
        return dict(DEFAULT_BASELINES)
    if isinstance(given, str):
        fitting = [modality for modality in DEFAULT_BASELINES if given in list_baselines(modality)]
        if not fitting:
            check_baseline("image", given)
        return DEFAULT_BASELINES | dict.fromkeys(fitting, given)
    for modality, name in given.items():
        if modality not in DEFAULT_BASELINES:
            choices = ", ".join(DEFAULT_BASELINES)
            raise ValueError(
                f"baseline of {modality!r}: give those of {choices}{suggest_nearest(modality, DEFAULT_BASELINES)}"
            )
        check_baseline(modality, name)
    return DEFAULT_BASELINES | dict(given)


@dataclass
class ExplainCall:
    """One call of `explain`. Fields as its arguments; seed: of each row's random numbers."""

    model: Any
    processor: PlaitProcessor
    method: str
    settings: MethodSettings
    baselines: dict[str, str]
    modalities: str | Sequence[str] | None
    max_length: int | None
    seed: int = 0

    def explain_rows(self, rows: Sequence[Row], target: Any) -> list[RowExplanation]:
        """Explains rows one by one, so that none depends on the padding of others."""
        if not rows:
            raise ValueError("there are no rows: pass a row, or a list of rows, each a dict of column and value")
        targets = target if isinstance(target, list) else [target] * len(rows)
        if len(targets) != len(rows):
            raise ValueError(f"{len(targets)} targets for {len(rows)} rows: give one, or a list with one for each row")
        shared = "rows" in self.baselines.values()
        encoded = [self.encode(row, number) for number, row in enumerate(rows)] if shared else []
        formatter, checked = AttributionFormatter(self.processor, self.settings.segments), set()
        found = []
        for number, (row, want) in enumerate(zip(rows, targets, strict=True)):
            own = encoded[number] if shared else self.encode(row, number)
            others = [one for place, one in enumerate(encoded) if place != number]
            found.append(self.explain_row(own, want, others, formatter, checked))
        return found

    def encode(self, row: Row, number: int) -> EncodedRows:
        """Encodes one row, which errors call by its number."""
        return encode_numbered_row(self.model, self.processor, row, number, self.max_length)

    def explain_row(
        self,
        encoded: EncodedRows,
        target: Any,
        others: Sequence[EncodedRows],
        formatter: AttributionFormatter,
        checked: set[Any],
    ) -> RowExplanation:
        """Explains one encoded row."""
        targets = find_targets(self.model, self.processor, encoded, target if target is None else [target])
        encoded.inputs = targets.inputs
        parts = self.select_parts(encoded)
        result = self.attribute(encoded, targets, parts, others, checked)
        amounts = dict(zip(dict.fromkeys(part.input for part in parts), result.amounts, strict=True))
        attributions = {}
        for part in parts:
            attributions |= formatter.format_part(encoded, part, amounts[part.input])
        error = result.score - result.baseline_score - sum_amounts(result.amounts)
        return RowExplanation(
            targets.names[0],
            result.score,
            result.baseline_score,
            attributions,
            error if METHODS[self.method].complete else None,
        )

    def attribute(
        self,
        encoded: EncodedRows,
        targets: FoundTargets,
        parts: Sequence[Part],
        others: Sequence[EncodedRows],
        checked: set[Any],
    ) -> Attributed:
        """Computes the amounts of the elements of one row's parts."""
        row = ScoredRow(self.model, targets.inputs, targets.target, list(dict.fromkeys(part.input for part in parts)))
        generator = torch.Generator().manual_seed(self.seed)
        features = build_features(encoded, parts, self.settings)
        draws = (others, count_baselines(self.method, self.settings), generator)
        baselines = build_baselines(row, self.processor, encoded, features, parts, self.baselines, *draws)
        return attribute(self.method, AttributionCall(row, features, baselines, self.settings, generator), checked)

    def select_parts(self, encoded: EncodedRows) -> list[Part]:
        """Selects the present parts of a row that are explained. Raises ValueError for a name that is none of them."""
        parts = encoded.parts
        wanted = [self.modalities] if isinstance(self.modalities, str) else self.modalities
        names = {*parts, *(part.modality for part in parts.values())}
        for name in wanted or ():
            if name not in names:
                raise ValueError(
                    f"modality {name!r} is not in the rows: choose {', '.join(parts)}{suggest_nearest(name, names)}"
                )
        chosen = [part for part in parts.values() if not wanted or {part.name, part.modality} & set(wanted)]
        present = [part for part in chosen if bool(part.present.any())]
        if not present:
            raise ValueError(f"nothing to explain: {', '.join(part.name for part in chosen)} of this row is empty")
        return present


def sum_amounts(amounts: Sequence[Tensor]) -> float:
    """Returns the sum of all amounts."""
    return float(sum(amount.double().sum() for amount in amounts))
