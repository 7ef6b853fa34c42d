"""Pretraining on unlabelled pairs: several objectives over the same towers and the same fusion."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Unpack, cast

import torch
from torch import Tensor, nn
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig, PlaitRetrievalConfig, width_of
from ...configuration.objectives import (
    CAPTIONING,
    CONTRASTIVE,
    MASKED_IMAGE,
    MASKED_LM,
    MATCHING,
    OBJECTIVES,
    check_objectives,
)
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..core.distributed import is_distributed
from ..heads.language_model import add_lm_head, compute_token_loss, mask_until_last_label, shift_labels_right
from ..heads.masked_image import MaskedImageHead
from ..heads.masked_lm import MaskedLMHead
from ..heads.projection import build_projections, build_similarity, compute_side_width, pooled
from ..inputs import EncoderInputs, expand_signature, split_by_modality
from ..losses.contrastive import ContrastiveLoss, Similarity, fingerprint
from ..losses.cross_entropy import IGNORE_INDEX, cross_entropy
from ..outputs import PlaitModelOutput, PlaitPreTrainingOutput, TowerOutput
from ..towers.items import scatter_items
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from .pretraining_encoding import (
    MASKED_TEXT,
    EncodedBatch,
    FusedRows,
    InputsByModality,
    encode_clean_and_masked,
    fuse_rows,
)
from .pretraining_matching import MatchedRows, match_rows, select_matching_rows
from .pretraining_objectives import find_objectives

logger = logging.get_logger(__name__)


class ObjectiveTargets(NamedTuple):
    """What the objectives learn from: see `PlaitForPreTraining.forward`."""

    input_ids_masked: Tensor | None
    mlm_labels: Tensor | None
    bool_masked_pos: Tensor | None
    labels: Tensor | None


class ComparedPairs(NamedTuple):
    """What contrastive and matching compare. rows: of the batch; embeds: by modality (pairs, width), where there is a
    contrastive head; groups: (pairs, kinds)."""

    rows: MatchedRows
    embeds: dict[str, Tensor]
    groups: Tensor


class PreTrainingStep(NamedTuple):
    """All that the losses of one batch are computed from: what the towers made of it, the pairs where they are
    compared, which rows the fusion read for which objective, and what it made of them."""

    targets: ObjectiveTargets
    encoded: EncodedBatch
    pairs: ComparedPairs | None
    plan: dict[str, dict[str, Tensor]]
    fused: dict[str, FusedRows]


class PlaitForPreTraining(PlaitPreTrainedModel):
    """Any of five objectives, weighted by `config.objectives`, from one forward in which every tower and the fusion run
    once:

    - `contrastive`: both towers' vectors in one space (InfoNCE; CLIP, Radford et al. 2021,
      https://arxiv.org/abs/2103.00020; ALBEF, Li et al. 2021, https://arxiv.org/abs/2107.07651, equation 1 and L_itc);
    - `matching`: whether text and picture belong together, read after the fusion, with hard negatives from the batch
      (ALBEF, section 3.2, L_itm);
    - `masked_lm`: hidden tokens of the text, read after the fusion, so that the picture helps (Devlin et al. 2019;
      ALBEF, section 3.2, L_mlm);
    - `masked_image`: hidden patches of the picture, from the image tower alone (SimMIM, MAE: see `MaskedImageHead`);
    - `captioning`: the text written by the decoder, which reads the picture alone (BLIP, Li et al. 2022,
      https://arxiv.org/abs/2201.12086, section 3.2, L_lm; CoCa, Yu et al. 2022, https://arxiv.org/abs/2205.01917,
      equation 2).

    The loss is the sum of weight x objective. Rows may lack text or picture: each objective takes the rows that have
    what it needs, and adds nothing where there are none. Rows with the same text or the same picture are no negatives
    of each other. The folder loads into every class that has a place for its parts.

    Raises:
        ValueError: an objective whose part is missing, or none that counts.
    """

    accepts_loss_kwargs = False
    loss_names = OBJECTIVES
    reads_pooled = False
    decoder_kind = "context"
    context_fusion = "early"
    checkpoint_heads = ("mlm_head",)
    _keys_to_ignore_on_load_unexpected = [r"towers\.text\.pooler\."]

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        config.objectives = find_objectives(config)
        self.objective_weights = dict(config.objectives)  # in training: a schedule may change them
        self.model = PlaitModel(config)
        self._tied_weights_keys = {}
        self.similarity = None
        if CONTRASTIVE in config.objectives:
            settings = config.retrieval_config = config.retrieval_config or PlaitRetrievalConfig()
            self.projections, self.similarity = build_projections(config, settings), build_similarity(settings)
            self.contrastive = ContrastiveLoss(settings.loss, settings.hardness)
        self.matching_head = None if MATCHING not in config.objectives else nn.Linear(compute_joint_width(config), 2)
        self.image_head = None if MASKED_IMAGE not in config.objectives else MaskedImageHead(config)
        if MASKED_LM in config.objectives:
            text: Any = config.text_config
            if self.similarity is None:
                cast("Any", self.model.towers["text"]).pooler = None  # nothing would train it
            self.mlm_head = MaskedLMHead(text, compute_joint_width(config))
            self.mlm_projection = nn.Linear(text.embedding_size, text.vocab_size)
            self._tied_weights_keys["mlm_projection.weight"] = f"model.towers.text.{TOKEN_EMBEDDING_WEIGHT}"
        if CAPTIONING in config.objectives:
            add_lm_head(self)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection to the vocabulary of the decoder, else of masked language modelling."""
        return next((getattr(self, name) for name in VOCABULARY_HEADS if hasattr(self, name)), None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        setattr(self, next(name for name in VOCABULARY_HEADS if hasattr(self, name)), new_embeddings)

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        input_ids_masked: Tensor | None = None,
        mlm_labels: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        labels: Tensor | None = None,
        objectives: Iterable[str] | None = None,
        return_loss: bool | None = None,
        **inputs: Unpack[EncoderInputs],
    ) -> PlaitPreTrainingOutput:
        """Inputs as in `PlaitModel`.

        Args:
            input_ids_masked, mlm_labels: (batch, length), the text with hidden tokens, and what stands there (-100
                elsewhere): for masked_lm.
            bool_masked_pos: (batch[, images], patches) with the leading dimensions of pixel_values, True where masked
                image modelling hides a patch; None: drawn here.
            labels: (batch, length), the text that captioning writes, -100 where nothing is to be predicted; a row of
                -100 alone is not written.
            objectives: those that this batch is for; None: all of the config that have a weight.
            return_loss: whether to compute the losses; None: where any of the four targets is given.

        Raises:
            ValueError: an objective that this model has no head for, or whose targets are not given; a batch of one row
                for contrastive and matching; inputs that make a loss that is not finite.
        """
        targets = ObjectiveTargets(input_ids_masked, mlm_labels, bool_masked_pos, labels)
        parts, given = split_by_modality(inputs), inputs.get("encoder_outputs")
        if return_loss or (return_loss is None and any(target is not None for target in targets)):
            return self.compute_losses(parts, given or {}, targets, self.select_objectives(objectives))
        return self.build_output(self.model.encode_and_fuse(parts, given, self.model.select_output_options(inputs)))

    def select_objectives(self, objectives: Iterable[str] | None) -> dict[str, float]:
        """The objectives of a call with their weights, those that weigh nothing left out."""
        known = dict(self.config.objectives or {})
        names = list(known if objectives is None else objectives)
        check_objectives(names)
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"this model has no head for {', '.join(missing)}: its config.objectives are {known}")
        weights = self.objective_weights if self.training else known
        chosen = {name: float(weights[name]) for name in OBJECTIVES if name in names and weights[name]}
        if not chosen:
            raise ValueError(f"nothing to learn: of {', '.join(names) or 'no objective'} none has a weight above 0")
        return chosen

    def build_output(self, outputs: PlaitModelOutput) -> PlaitPreTrainingOutput:
        """What a batch means, without losses."""
        pooled, towers = outputs.pooler_output, outputs.encoder_outputs or {}
        matched = None if self.matching_head is None or pooled is None else self.matching_head(pooled)
        return PlaitPreTrainingOutput(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=pooled,
            embeds=self.compute_embeds(towers) or None,
            matching_logits=matched,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mask=outputs.mask,
        )

    def compute_losses(
        self, inputs: InputsByModality, given: Mapping[str, Any], targets: ObjectiveTargets, weights: dict[str, float]
    ) -> PlaitPreTrainingOutput:
        """The losses, from one call of every tower and one of the fusion."""
        check_objective_targets(targets, weights)
        masked_ids = targets.input_ids_masked if MASKED_LM in weights else None
        views = encode_clean_and_masked(
            self.model, inputs, given, weights, masked_ids, self.image_head, targets.bool_masked_pos
        )
        pairs = self.collect_pairs(views, inputs, given) if CONTRASTIVE in weights or MATCHING in weights else None
        plan = self.plan_fusion(views, pairs, targets, weights)
        step = PreTrainingStep(targets, views, pairs, plan, fuse_rows(self.model, views.rows, plan) if plan else {})
        found = {name: getattr(self, f"{name}_loss")(step) for name in weights}
        losses = {name: loss for name, loss in found.items() if loss is not None}
        check_losses(losses)
        total = sum((weights[name] * loss.float() for name, loss in losses.items()), self.build_zero_loss())
        logits, answers = self.compute_matching(step) if MATCHING in step.fused else (None, None)
        return PlaitPreTrainingOutput(total, losses, matching_logits=logits, matching_labels=answers)

    def build_zero_loss(self) -> Tensor:
        """A loss of zero that has gradients: all that a batch adds which no objective has anything to learn from."""
        trained = next((parameter for parameter in self.parameters() if parameter.requires_grad), torch.zeros(1))
        return trained.flatten()[:0].float().sum()

    def collect_pairs(self, encoded: EncodedBatch, inputs: InputsByModality, given: Mapping[str, Any]) -> ComparedPairs:
        """What contrastive and matching compare."""
        names = cast("tuple[str, str]", tuple(self.model.towers))
        groups = compute_pair_groups(inputs, given)
        rows = match_rows(encoded.rows, names, groups)
        if len(groups) < 2 and not is_distributed():
            raise ValueError(
                f"contrastive and matching compare the rows of a batch, and this one has {len(groups)}: make it two or "
                "more (dataloader_drop_last leaves out a last batch of one), or leave them out by objectives="
            )
        if rows.alike:
            logger.warning_once(
                "a batch without two pairs that differ in text and picture: contrastive and matching learn nothing"
            )
        present = {
            name: scatter_items(encoded.rows[name], rows.numbers[:, None]) for name in names if name in encoded.rows
        }
        embeds = self.compute_embeds(present) if self.similarity is not None and len(present) == 2 else {}
        return ComparedPairs(rows, embeds, groups[rows.numbers])

    def plan_fusion(
        self, encoded: EncodedBatch, pairs: ComparedPairs | None, targets: ObjectiveTargets, weights: dict[str, float]
    ) -> dict[str, dict[str, Tensor]]:
        """Which rows the fusion reads together, by objective and modality."""
        plan = {}
        if pairs is not None and MATCHING in weights and not pairs.rows.alike:
            plan[MATCHING] = select_matching_rows(pairs.rows, self.score_pairs(pairs), self.training)
        if MASKED_LM in weights and MASKED_TEXT in encoded.rows:
            plan[MASKED_LM] = select_masked_lm_rows(encoded.rows, cast("Tensor", targets.mlm_labels))
        if CAPTIONING in weights:
            plan[CAPTIONING] = select_captioning_rows(encoded.rows, cast("Tensor", targets.labels))
        return {name: numbers for name, numbers in plan.items() if numbers}

    def score_pairs(self, pairs: ComparedPairs) -> Tensor:
        """(pairs, pairs): how alike each first and each second are, by the contrastive head; without one, all alike."""
        if not pairs.embeds or self.similarity is None:
            return torch.zeros_like(pairs.rows.same, dtype=torch.float)
        return self.similarity(*pairs.embeds.values())

    def contrastive_loss(self, step: PreTrainingStep) -> Tensor | None:
        """InfoNCE both ways (ALBEF, equation 1 and L_itc; CLIP, figure 3), the pairs of all processes as negatives."""
        pairs, similarity = cast("ComparedPairs", step.pairs), cast("Similarity", self.similarity)
        if pairs.rows.alike and not is_distributed():
            return None
        if self.training:
            similarity.clamp_temperature()
        first, second = pairs.embeds.values() if pairs.embeds else self.build_empty_embeds()
        return self.contrastive(first, second, similarity, pairs.groups)

    def compute_matching(self, step: PreTrainingStep) -> tuple[Tensor, Tensor]:
        """logits: (rows, 2) and labels: (rows,) of the pairs (yes) and, behind them, of their negatives (no)."""
        head, pairs = cast("nn.Linear", self.matching_head), cast("ComparedPairs", step.pairs)
        pooled = step.fused[MATCHING].pooled
        yes = torch.arange(len(pooled), device=pooled.device) < len(pairs.rows.numbers)
        return head(pooled), yes.long()

    def matching_loss(self, step: PreTrainingStep) -> Tensor | None:
        """Cross-entropy of yes and no over the pairs and their negatives (ALBEF, section 3.2, L_itm)."""
        return cross_entropy(*self.compute_matching(step)) if MATCHING in step.fused else None

    def masked_lm_loss(self, step: PreTrainingStep) -> Tensor | None:
        """Cross-entropy of the hidden tokens, averaged over them (ALBEF, section 3.2, L_mlm)."""
        if MASKED_LM not in step.fused:
            return None
        labels = cast("Tensor", step.targets.mlm_labels)[step.plan[MASKED_LM][MASKED_TEXT]]
        known = labels != IGNORE_INDEX
        x = self.mlm_head(step.fused[MASKED_LM].tokens[:, : labels.shape[1]][known])
        return compute_token_loss(self.mlm_projection, x[None], labels[known][None])

    def masked_image_loss(self, step: PreTrainingStep) -> Tensor | None:
        """See `MaskedImageHead`."""
        hidden, head = step.encoded.hidden, cast("MaskedImageHead", self.image_head)
        return None if hidden is None else head(hidden.tokens, hidden.images, hidden.masked)

    def captioning_loss(self, step: PreTrainingStep) -> Tensor | None:
        """Cross-entropy of the text given the picture, averaged over its tokens (BLIP, section 3.2, L_lm)."""
        if CAPTIONING not in step.fused:
            return None
        rows, fused = next(iter(step.plan[CAPTIONING].values())), step.fused[CAPTIONING]
        labels = cast("Tensor", step.targets.labels)[rows]
        text = {"input_ids": shift_labels_right(labels, self.config), "attention_mask": mask_until_last_label(labels)}
        context = {"context": fused.tokens, "context_mask": fused.mask}
        x = self.model.decode({**text, **context}, None, False, {}).last_hidden_state
        return compute_token_loss(cast("nn.Linear", self.lm_head), x, labels)

    def compute_embeds(self, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """By modality (rows, width), of unit length; nothing without a contrastive head."""
        if self.similarity is None:
            return {}
        vectors = {name: pooled(output) for name, output in outputs.items()}
        projections = cast("Any", self.projections)
        if projections:
            vectors = {name: projections[name](vector) for name, vector in vectors.items()}
        return {name: nn.functional.normalize(vector, dim=-1) for name, vector in vectors.items()}

    def build_empty_embeds(self) -> tuple[Tensor, Tensor]:
        """Of a batch without a pair, in a run of several processes."""
        nothing = self.build_zero_loss()
        first, second = (nothing.expand(0, compute_side_width(self.config, name)) for name in self.model.towers)
        if self.projections:
            first, second = (each.get_parameter("weight")[:, :0].T for each in self.projections.values())
        return first, second


# projections to a vocabulary: the decoder's comes first
VOCABULARY_HEADS = ("lm_head", "mlm_projection")


def compute_joint_width(config: PlaitConfig) -> int:
    """Width of the tokens that the fusion gives (of the tower's, for a single one)."""
    if config.fusion_config is not None:
        return config.fusion_config.hidden_size
    ((modality, tower),) = config.encoders.items()
    return width_of(tower, modality)


def select_masked_lm_rows(rows: Mapping[str, TowerOutput], labels: Tensor) -> dict[str, Tensor]:
    """The rows that have a token to be found, with all that may help; nothing where there is none."""
    numbers = (labels != IGNORE_INDEX).any(dim=1).nonzero().flatten()
    others = [name for name in rows if name not in ("text", MASKED_TEXT)]
    return dict.fromkeys((MASKED_TEXT, *others), numbers) if len(numbers) else {}


def select_captioning_rows(rows: Mapping[str, TowerOutput], labels: Tensor) -> dict[str, Tensor]:
    """The rows that have a text to be written, of something else than text; nothing where there is none."""
    others = [name for name in rows if name not in ("text", MASKED_TEXT)]
    if not others:
        return {}
    shown = torch.stack([rows[name].mask.any(dim=1) for name in others]).any(dim=0)
    numbers = (shown & (labels != IGNORE_INDEX).any(dim=1)).nonzero().flatten()
    return dict.fromkeys(others, numbers) if len(numbers) else {}


def compute_pair_groups(inputs: InputsByModality, given: Mapping[str, Any]) -> Tensor:
    """(batch, kinds): rows with the same text, or the same (first) picture, have an equal number of that kind; -1 where
    there is none. Read from token ids and pixels, or from what a tower made of them."""
    kinds = [fingerprint(output["last_hidden_state"]) for output in given.values()]
    ids, mask = inputs["text"]["input_ids"], inputs["text"]["attention_mask"]
    if ids is not None and "text" not in given:
        kinds.append(fingerprint(ids + 1 if mask is None or mask.ndim != 2 else (ids + 1) * mask))
    pixels, indices = inputs["image"]["pixel_values"], inputs["image"]["image_indices"]
    if pixels is not None and "image" not in given:
        prints = fingerprint(pixels)
        kinds.append(prints if indices is None else torch.where(indices[:, 0] >= 0, prints[indices[:, 0]], -1))
    if not kinds:
        some = next(value for part in inputs.values() for value in part.values() if value is not None)
        kinds.append(torch.full((len(some),), -1, device=some.device))
    return torch.stack(kinds, dim=1)


def check_objective_targets(targets: ObjectiveTargets, weights: Mapping[str, float]) -> None:
    """Raises ValueError for an objective whose targets are not given."""
    if MASKED_LM in weights and (targets.input_ids_masked is None or targets.mlm_labels is None):
        raise ValueError("masked_lm: pass input_ids_masked and mlm_labels, or objectives without it")
    if CAPTIONING in weights and targets.labels is None:
        raise ValueError("captioning: pass labels, the text to be written, or objectives without it")


def check_losses(losses: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a loss that is not finite. Reads them on the host: one synchronisation a step on a GPU."""
    if not losses:
        return
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if not bool(values.isfinite().all()):
        wrong = dict(zip(losses, values.tolist(), strict=True))
        raise ValueError(
            f"losses are not finite ({wrong}): look for NaN or infinite inputs, or lower the learning rate"
        )
