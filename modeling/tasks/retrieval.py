"""One space for text, pictures, sound and documents: what belongs together lies close together."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration import (
    DOCUMENT,
    NEGATIVE,
    PlaitConfig,
    PlaitRetrievalConfig,
    PlaitRNNConfig,
    PlaitTextConfig,
    PlaitTowerConfig,
    width_of,
)
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..core.pooling import mean_token, pooled_width
from ..inputs import RetrievalInputs, by_modality, spelled_out
from ..losses.contrastive import UNKNOWN, ContrastiveLoss, Similarity, fingerprint
from ..outputs import PlaitRetrievalOutput, TowerOutput
from .retrieval_encoding import encode, zero_shot

logger = logging.get_logger(__name__)

# what tells rows of a modality apart
CONTENT = ("pixel_values", "input_features", "input_values", "pixel_values_videos")


class Embedded(NamedTuple):
    """One side of a batch. vectors: (batch, width), of unit length; present: (batch,) bool; groups: (batch,) a number
    that rows of equal content share, -1 where none was asked for; output: of the tower, where its states are asked for.
    Of hard negatives each tensor has one more dimension, (batch, negatives)."""

    vectors: Tensor
    present: Tensor
    groups: Tensor
    output: TowerOutput | None = None


class PlaitForRetrieval(PlaitPreTrainedModel):
    """Towers side by side, each with a projection into one space, where the cosine of two vectors says how well what
    they stand for belongs together (CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020; SigLIP, Zhai et al.
    2023, https://arxiv.org/abs/2303.15343).

    The sides are the modalities that have a tower and, with `config.retrieval_config.document`, documents: a second
    input of one modality, read by a tower of its own or by the one of that modality. Loads CLIP, SigLIP, SigLIP 2 of
    fixed resolution and VisionTextDualEncoder checkpoints, and every one of a single tower.
    """

    published_heads = ("projections", "similarity")
    reads_apart = True
    accepts_loss_kwargs = False  # the loss is a mean over pairs: parts of a batch do not add up

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        if config.decoder_config is not None:
            raise ValueError("retrieval compares towers, and this config has a decoder: compose the class without")
        settings = config.retrieval_config = config.retrieval_config or PlaitRetrievalConfig()
        self.model = PlaitModel(config)
        self.projections = projections_of(config, settings)
        self.similarity = similarity_of(settings)
        self.loss = ContrastiveLoss(settings.loss, settings.hardness)
        self.post_init()

    @classmethod
    def compose(cls, **parts: Any) -> Self:
        """Bring towers into one space: see `plait.modeling.retrieval_composition.compose`."""
        from ..composition.retrieval import compose

        return compose(cls, **parts)

    @can_return_tuple
    @spelled_out
    def forward(
        self,
        *,
        groups: Tensor | None = None,
        negative_groups: Tensor | None = None,
        return_loss: bool | None = None,
        **inputs: Unpack[RetrievalInputs],
    ) -> PlaitRetrievalOutput:
        """Vectors of every side that the batch holds, and how alike those of the first two are; or the loss.

        Inputs as in `PlaitModel`, those of documents with "document_" before the name. Sides may have different numbers
        of rows, but for the loss row i of one belongs to row i of every other; a row may lack a side. Hard negatives,
        which the loss alone reads, are texts that belong to no row ("negative_" before the name; documents where there
        is that side, else captions): negatives of every row. Of fewer in a row than in others, masks are 0. Outputs of
        their tower may stand for them, as "negative" in `encoder_outputs`, (batch, negatives, length, ...) each.

        Args:
            groups: (batch, sides) numbers, -1 for none: rows with the same number of one side (the same picture, the
                same caption) are not each other's negatives. Left out, they are read from the inputs themselves, so
                that rows with the same tokens, the same `image_indices` or the same pixels are alike.
            negative_groups: (batch, negatives), the numbers of hard negatives among those of their side, with `groups`:
                one with a row's own number is not that row's negative.
            return_loss: compute the loss, over all pairs of sides; left out: in training.

        Raises:
            ValueError: nothing to encode, one side alone or sides of different lengths where a loss is asked for,
                hard negatives of another shape or without a side of texts, or vectors that are not finite.
        """
        with_loss = self.training if return_loss is None else return_loss
        sides = self.embed(inputs, with_loss)
        loss = self.contrast(sides, groups, negative_groups) if with_loss else None
        return PlaitRetrievalOutput(loss=loss, **({} if with_loss else self.compare(sides)), **outputs_of(sides))

    def embed(self, inputs: Mapping[str, Any], every: bool = False) -> dict[str, Embedded]:
        """The sides that the batch holds. With `every`, as a loss needs them: all, so that each has a gradient (of what
        the batch lacks, no row is there), which rows are alike, and hard negatives as one more."""
        inputs, negatives = without_negatives(inputs)
        given, parts = dict(inputs.get("encoder_outputs") or {}), by_side(inputs, self.config.sides)
        recorded = self.model.recorded(inputs)
        hard, found = given.pop(NEGATIVE, None), {}
        for side, part in parts.items():
            output = TowerOutput(**given[side]) if side in given else self.encode_side(side, part, recorded)
            if output is not None:
                found[side] = (output, groups_of(self.config.sides[side], part, output) if every else None)
        if not found:
            raise ValueError(f"no inputs: this model reads {', '.join(self.config.sides)}")
        embedded = {side: self.embedded(side, output, groups) for side, (output, groups) in found.items()}
        if any(recorded.values()):
            embedded = {side: embedded[side]._replace(output=output) for side, (output, _) in found.items()}
        if every:
            like = next(iter(embedded.values()))
            embedded |= {side: self.absent(side, like) for side in self.config.sides if side not in embedded}
            embedded |= {NEGATIVE: self.embed_negatives(negatives, hard, like)} if negatives or hard else {}
        return {side: embedded[side] for side in (*self.config.sides, NEGATIVE) if side in embedded}

    def embed_negatives(
        self, inputs: Mapping[str, Tensor], given: Mapping[str, Tensor] | None, like: Embedded
    ) -> Embedded:
        """Hard negatives as the tower of their side reads them, or read them before (`given`, its outputs); inputs and
        outputs: (batch, negatives, length, ...) each."""
        side, shape = self.negative_side, (given["mask"] if given else inputs["input_ids"]).shape[:2]
        if side is None:
            raise ValueError(f"hard negatives are texts, and this model's sides are {dict(self.config.sides)}")
        flat: dict[str, Any] = {name: value.flatten(0, 1) for name, value in (given or inputs).items()}
        output = TowerOutput(**flat) if given else self.encode_side(side, flat, {})
        if output is None:  # no row has any
            vectors, nothing = like.vectors.new_zeros(*shape, like.vectors.shape[1]), like.groups.new_zeros(shape)
            return Embedded(vectors, nothing.bool(), nothing)
        found = self.embedded(side, output, groups_of("text", flat, output))
        vectors, present, groups = (part.unflatten(0, shape) for part in (found.vectors, found.present, found.groups))
        return Embedded(vectors, present, groups)

    @property
    def negative_side(self) -> str | None:
        """The side that hard negatives are of; None where it has no texts."""
        side = DOCUMENT if DOCUMENT in self.config.sides else "text"
        return side if self.config.sides.get(side) == "text" else None

    def encode_side(self, side: str, inputs: Mapping[str, Any], recorded: Mapping[str, Any]) -> TowerOutput | None:
        """What the side's tower makes of its inputs; None where there are none."""
        modality = self.config.sides[side]
        tower = side if side in self.model.towers else modality
        if modality == "text":
            warn_of_short(self.config.towers[tower], inputs.get("input_ids"))
        return self.model.encode_with(tower, modality, inputs, recorded)

    def embedded(self, side: str, output: TowerOutput, groups: Tensor | None) -> Embedded:
        present = output.mask.bool().any(dim=1)
        groups = torch.full_like(present, UNKNOWN, dtype=torch.long) if groups is None else groups
        return Embedded(F.normalize(self.project(side, pooled(output)), dim=-1), present, groups)

    def absent(self, side: str, like: Embedded) -> Embedded:
        """A side that no row of the batch has."""
        vectors = self.project(side, like.vectors.new_zeros(len(like.vectors), side_width(self.config, side)))
        return Embedded(vectors, torch.zeros_like(like.present), torch.full_like(like.groups, UNKNOWN))

    def project(self, side: str, vectors: Tensor) -> Tensor:
        """(batch, pooled width) into the common space; a side without a tower of its own shares its modality's."""
        if not self.projections:
            return vectors
        return self.projections[side if side in self.projections else self.config.sides[side]](vectors)

    def contrast(
        self, sides: Mapping[str, Embedded], groups: Tensor | None = None, negative_groups: Tensor | None = None
    ) -> Tensor:
        """The contrastive loss, a mean over all pairs of sides; hard negatives count in those of their side."""
        names = [side for side in sides if side != NEGATIVE]
        if len(names) < 2:
            raise ValueError(f"a contrastive loss compares two sides, and this model has one: {', '.join(names)}")
        check_rows(sides, groups, negative_groups)
        if self.training:
            self.similarity.limit()
        losses = []
        for first, second in itertools.combinations(names, 2):
            if first == self.negative_side:  # hard negatives, of whatever process, are among the second's columns
                first, second = second, first
            counted = NEGATIVE in sides and second == self.negative_side
            hard = hard_negatives(sides[NEGATIVE], negative_groups) if counted else {}
            a, b = sides[first], sides[second]
            alike = torch.stack((a.groups, b.groups), dim=1)
            if groups is not None:
                alike = groups[:, [names.index(first), names.index(second)]]
            losses.append(self.loss(a.vectors, b.vectors, self.similarity, alike, a.present & b.present, **hard))
        return torch.stack(losses).mean()

    def compare(self, sides: Mapping[str, Embedded]) -> dict[str, Tensor]:
        """Scaled similarities of the first two sides: `logits` (rows of the first, rows of the second), and of texts
        and pictures under their own names."""
        if len(sides) < 2:
            return {}
        first, second, *_ = sides
        logits = self.similarity(sides[first].vectors, sides[second].vectors)
        if (first, second) != ("text", "image"):
            return {"logits": logits}
        return {"logits": logits, "logits_per_text": logits, "logits_per_image": logits.T}

    def get_text_features(self, **inputs: Any) -> TowerOutput:
        """The text tower's output; `pooler_output` (batch, width) is projected, and not yet of unit length."""
        return self.features("text", inputs)

    def get_image_features(self, **inputs: Any) -> TowerOutput:
        """As `get_text_features`, of pictures."""
        return self.features("image", inputs)

    def get_audio_features(self, **inputs: Any) -> TowerOutput:
        """As `get_text_features`, of sound."""
        return self.features("audio", inputs)

    def get_video_features(self, **inputs: Any) -> TowerOutput:
        """As `get_text_features`, of videos."""
        return self.features("video", inputs)

    def get_document_features(self, **inputs: Any) -> TowerOutput:
        """As `get_text_features`, of documents (their inputs without "document_" before the name)."""
        return self.features(DOCUMENT, inputs)

    def encode(
        self, rows: Sequence[Any], processor: Callable[..., Any], side: str | None = None, **options: Any
    ) -> Tensor:
        """Vectors of any number of rows, in batches: see `plait.modeling.encoding.encode`."""
        return encode(self, rows, processor, side, **options)

    def zero_shot(
        self, images: Sequence[Any], labels: Sequence[str], processor: Callable[..., Any], **options: Any
    ) -> Tensor:
        """Probabilities of labels for pictures: see `plait.modeling.encoding.zero_shot`."""
        return zero_shot(self, images, labels, processor, **options)

    def features(self, side: str, inputs: Mapping[str, Any]) -> TowerOutput:
        """The output of one side's tower, its pooled vector projected.

        Raises ValueError where there is no such side, or nothing to encode.
        """
        if side not in self.config.sides:
            raise ValueError(f"this model has no {side} side, only {', '.join(self.config.sides)}")
        recorded = self.model.recorded(inputs)
        output = self.encode_side(side, {name: inputs[name] for name in inputs if name not in recorded}, recorded)
        if output is None:
            raise ValueError(f"nothing to encode: no {side} in {', '.join(inputs) or 'no inputs'}")
        output.pooler_output = self.project(side, pooled(output))
        return output


def warn_of_short(config: Any, input_ids: Tensor | None) -> None:
    """Warn where a tower that is pooled at the last of its positions (SigLIP) reads texts that end before."""
    if input_ids is None or not isinstance(config, PlaitTextConfig) or config.pooling != "final":
        return
    length, positions = input_ids.shape[1], config.max_position_embeddings
    if length < positions and not is_torchdynamo_compiling():
        logger.warning_once(
            f"texts of {length} tokens: this tower was trained on texts that are all padded to {positions}, and is "
            f"pooled there; pad them alike, with padding='max_length', max_length={positions}"
        )


def pooled(output: TowerOutput) -> Tensor:
    """(batch, width): what the tower pools, else the mean over its tokens."""
    return mean_token(output.last_hidden_state, output.mask) if output.pooler_output is None else output.pooler_output


def side_width(config: PlaitConfig, side: str) -> int:
    """Width of what the side's tower pools."""
    modality = config.sides[side]
    tower: Any = config.towers.get(side) or config.towers[modality]
    if isinstance(tower, PlaitRNNConfig):
        return tower.pooler_size or tower.hidden_size
    pools = isinstance(tower, PlaitTowerConfig) and tower.pooling != "none"
    return pooled_width(tower) if pools else width_of(tower, modality)


def projections_of(config: PlaitConfig, settings: PlaitRetrievalConfig) -> nn.ModuleDict:
    """A linear map without bias for each tower; none where the towers' vectors are compared as they are.

    Raises ValueError where these are not equally wide.
    """
    widths = {side: side_width(config, side) for side in config.towers}
    if settings.projection_dim is not None:
        sizes = widths.items()
        return nn.ModuleDict({side: nn.Linear(width, settings.projection_dim, bias=False) for side, width in sizes})
    if len(set(widths.values())) > 1:
        raise ValueError(f"without a projection all towers must be as wide, and they are {widths}: set projection_dim")
    return nn.ModuleDict()


def similarity_of(settings: PlaitRetrievalConfig) -> Similarity:
    scale = math.exp(settings.logit_scale_init_value)
    return Similarity(scale, settings.logit_bias_init_value, max(scale, settings.max_logit_scale))


def without_negatives(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inputs of the sides, and those of hard negatives without "negative_" before the name.

    Raises ValueError for hard negatives of another shape than (batch, negatives, length).
    """
    start = f"{NEGATIVE}_"
    given = {name: value for name, value in inputs.items() if name.startswith(start) and value is not None}
    for name, value in given.items():
        if value.ndim != 3 or f"{start}input_ids" not in given:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}: hard negatives are {start}input_ids (batch, negatives, "
                "length), and masks of that shape"
            )
    rest = {name: value for name, value in inputs.items() if not name.startswith(start)}
    return rest, {name.removeprefix(start): value for name, value in given.items()}


def hard_negatives(embedded: Embedded, groups: Tensor | None) -> dict[str, Tensor]:
    """The arguments of the loss: those that are there, and their numbers as ones of the second side."""
    numbers = embedded.groups if groups is None else groups
    kinds = torch.stack((torch.full_like(numbers, UNKNOWN), numbers), dim=-1)
    return {"negatives": embedded.vectors[embedded.present], "negative_groups": kinds[embedded.present]}


def by_side(inputs: Mapping[str, Any], sides: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The inputs of each side.

    Raises ValueError for inputs that no side reads.
    """
    start = f"{DOCUMENT}_"
    parts = by_modality({name: value for name, value in inputs.items() if not name.startswith(start)})
    documents = {name.removeprefix(start): value for name, value in inputs.items() if name.startswith(start)}
    if DOCUMENT in sides:
        parts[DOCUMENT] = by_modality(documents)[sides[DOCUMENT]]
    read = {side: parts.get(side, {}) for side in sides}
    spare = {name for side, part in parts.items() if side not in read for name in part if part[name] is not None}
    spare |= set() if DOCUMENT in sides else {start + name for name in documents if documents[name] is not None}
    if spare:
        raise ValueError(f"got {', '.join(sorted(spare))}, which no side of this model reads ({', '.join(sides)})")
    return read


def groups_of(modality: str, inputs: Mapping[str, Any], output: TowerOutput) -> Tensor:
    """(batch,): rows of equal content have an equal number."""
    ids, mask, indices = (inputs.get(name) for name in ("input_ids", "attention_mask", "image_indices"))
    if modality == "text" and ids is not None:
        return fingerprint(ids + 1 if mask is None or mask.ndim != 2 else (ids + 1) * mask)
    if modality == "image" and inputs.get("pixel_values") is not None and indices is not None:
        numbers = fingerprint(inputs["pixel_values"])
        return fingerprint(torch.where(indices >= 0, numbers[indices.clamp(min=0)], -1))
    values = next((inputs[name] for name in CONTENT if inputs.get(name) is not None), None)
    return fingerprint(pooled(output) if values is None else values)


def outputs_of(sides: Mapping[str, Embedded]) -> dict[str, Any]:
    """The vectors of each side, and what its tower made of the inputs where that is kept."""
    own = {side: embedded for side, embedded in sides.items() if side != NEGATIVE}
    kept = {side: embedded.output for side, embedded in own.items() if embedded.output is not None}
    return {f"{side}_embeds": own[side].vectors for side in own} | {"encoder_outputs": kept or None}


def check_rows(sides: Mapping[str, Embedded], groups: Tensor | None, negative_groups: Tensor | None) -> None:
    """Raises ValueError where row i of one side cannot belong to row i of another, or numbers are of another shape."""
    counts = {side: len(embedded.vectors) for side, embedded in sides.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"a loss needs pairs, row by row, and there are {counts}: pass as many of each")
    expected = (next(iter(counts.values())), len(counts.keys() - {NEGATIVE}))
    if groups is not None and groups.shape != expected:
        raise ValueError(f"groups has shape {tuple(groups.shape)}, expected (batch, sides) = {expected}")
    if NEGATIVE in sides and (groups is None) != (negative_groups is None):
        raise ValueError("groups and negative_groups number the same texts: pass both, or none of them")
    if NEGATIVE in sides and negative_groups is not None and negative_groups.shape != sides[NEGATIVE].present.shape:
        shapes = f"{tuple(negative_groups.shape)}, expected (batch, negatives) = {tuple(sides[NEGATIVE].present.shape)}"
        raise ValueError(f"negative_groups has shape {shapes}")
