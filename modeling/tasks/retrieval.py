"""Retrieval: one vector space for texts, images, audio, videos and documents, in which matching items are close."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils.generic import can_return_tuple

from ...configuration import (
    DOCUMENT,
    NEGATIVE,
    PlaitConfig,
    PlaitRetrievalConfig,
)
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..backbone.tensor_plan import gathers_rows
from ..composition.components import TowerArgument
from ..composition.retrieval import compose_retrieval
from ..composition.sentence import build_default_retrieval_config
from ..core.pooling import pool_output
from ..heads.projection import build_projections, build_similarity, compute_side_width
from ..inputs import (
    AudioFeatureInputs,
    DocumentFeatureInputs,
    ImageFeatureInputs,
    RetrievalInputs,
    TextFeatureInputs,
    VideoFeatureInputs,
    expand_signature,
)
from ..losses.contrastive import NO_GROUP, ContrastiveLoss
from ..outputs import PlaitRetrievalOutput, TowerOutput
from .retrieval_encoding import classify_zero_shot, encode_rows
from .retrieval_sides import (
    SideEmbeddings,
    build_negative_arguments,
    build_side_outputs,
    check_present_sides,
    check_side_rows,
    compute_content_groups,
    split_by_side,
    split_negatives,
    warn_short_texts,
)


class PlaitForRetrieval(PlaitPreTrainedModel):
    """A dual encoder: towers without a fusion, each with a projection into one space, in which the cosine of two
    vectors says how well their items match (CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020; SigLIP, Zhai
    et al. 2023, https://arxiv.org/abs/2303.15343).

    The sides are the modalities that have a tower and, with `config.retrieval_config.document`, documents: a second
    input of one modality, encoded by a separate tower or by that of the modality. It loads CLIP, SigLIP, SigLIP 2 (of
    fixed resolution) and VisionTextDualEncoder checkpoints, and those of any single tower.

    Raises:
        ValueError: a config with a decoder.
    """

    checkpoint_heads = ("projections", "similarity")
    reads_apart = True
    accepts_loss_kwargs = False  # the loss is a mean over pairs: parts of a batch do not add up

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        if config.decoder_config is not None:
            raise ValueError(
                "retrieval compares towers, and this config has a decoder: compose the model without decoder="
            )
        own = config.retrieval_config or build_default_retrieval_config(config.towers.values())
        settings = config.retrieval_config = own
        self.model = PlaitModel(config)
        self.projections = build_projections(config, settings)
        self.similarity = build_similarity(settings)
        self.loss = ContrastiveLoss(settings.loss, settings.hardness, gather=gathers_rows(config))
        self.post_init()

    @classmethod
    def build_start_weights(cls, config: PlaitConfig) -> dict[str, Tensor]:
        """Returns the temperature and the bias of the similarities, which a checkpoint of one tower does not have."""
        own = config.retrieval_config or build_default_retrieval_config(config.towers.values())
        similarity = build_similarity(own)
        similarity.init_weights(0.0)
        return {f"similarity.{name}": value.detach().clone() for name, value in similarity.named_parameters()}

    @classmethod
    def compose(
        cls,
        *,
        text: TowerArgument = None,
        image: TowerArgument = None,
        audio: TowerArgument = None,
        video: TowerArgument = None,
        document: TowerArgument = None,
        document_modality: str = "text",
        pooling: str | Mapping[str, str] | None = None,
        retrieval_config: PlaitRetrievalConfig | Mapping[str, Any] | None = None,
        freeze: str | Sequence[str] = (),
        verbose: bool = True,
        dtype: Any = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """Composes towers into a model that compares their vectors in one space, in evaluation mode.

        Args:
            text, image, audio, video: a Hub id, a folder, a config (newly initialized weights) or a ready model, of any
                family.
            document: the tower of the documents, inputs that are separate from the queries: "shared" for the tower of
                their modality, or a tower of its own, given like the others.
            document_modality: the modality of the documents.
            pooling: how one vector is read from a tower's tokens ("mean", "first", "last"), for all sides or by side.
                Default: the tower's own pooling if it was trained for comparison (CLIP, SigLIP, a sentence encoder, a
                plait model), else the last token of a causal tower, else the mean.
            retrieval_config: a `PlaitRetrievalConfig` or fields of it: `projection_dim`, `loss`, ... A sentence encoder
                that is the only tower has no projection by default.
            freeze: parts to freeze: sides, or "head" for the projections.
            verbose: print the table of pretrained, newly initialized, frozen and trainable parameters.
            dtype, attn_implementation: as in `from_pretrained`.
            options: as in `from_pretrained`, for all towers; any other field of `PlaitConfig`.

        Raises:
            ValueError: no tower; an unknown part or pooling; an unusable checkpoint, as in `from_pretrained`.
        """
        return compose_retrieval(
            cls,
            text,
            image,
            audio,
            video,
            document=document,
            document_modality=document_modality,
            pooling=pooling,
            retrieval_config=retrieval_config,
            freeze=freeze,
            verbose=verbose,
            dtype=dtype,
            attn_implementation=attn_implementation,
            **options,
        )

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        groups: Tensor | None = None,
        negative_groups: Tensor | None = None,
        return_loss: bool | None = None,
        **inputs: Unpack[RetrievalInputs],
    ) -> PlaitRetrievalOutput:
        """Embeds every side in the batch, and computes the similarities of the first two sides, and the loss.

        Takes the inputs of `PlaitModel`; the inputs of documents have the prefix "document_". Sides may have different
        numbers of rows, but for the loss row i of one side belongs to row i of every other; a row may lack a side. Hard
        negatives, with the prefix "negative_", count only in the loss: texts that belong to no row (documents if the
        model has that side, else captions) and are negatives of every row. Where a row has fewer of them than others,
        their masks are 0. In `encoder_outputs`, "negative" may hold the outputs of their tower, each (batch, negatives,
        length, ...).

        Args:
            groups: (batch, sides) group ids, -1 for none: rows with the same id for one side (the same image, the same
                caption) are not each other's negatives. None: computed from the inputs, so that rows with equal
                tokens, `image_indices` or pixels share a group.
            negative_groups: (batch, negatives), the group ids of hard negatives, in the numbering of their side in
                `groups`: a hard negative with a row's own id is not that row's negative.
            return_loss: compute the loss, over all pairs of sides; None: in training.

        Raises:
            ValueError: nothing to encode, or a row without any side; for a loss, a single side or sides of different
                lengths; hard negatives of another shape or without a side of texts; vectors that are not finite.
        """
        with_loss = self.training if return_loss is None else return_loss
        sides = self.embed(inputs, with_loss)
        loss = self.contrast(sides, groups, negative_groups) if with_loss else None
        return PlaitRetrievalOutput(loss=loss, **self.compare(sides, with_loss), **build_side_outputs(sides))

    def embed(self, inputs: Mapping[str, Any], every: bool = False) -> dict[str, SideEmbeddings]:
        """Embeds the sides that the batch holds, by side. With `every`, which a loss needs, it adds the groups of equal
        rows, the hard negatives as one more side, and absent sides without a present row, so that all have a
        gradient."""
        inputs, negatives = split_negatives(inputs)
        given, parts = dict(inputs.get("encoder_outputs") or {}), split_by_side(inputs, self.config.sides)
        recorded = self.model.select_output_options(inputs)
        hard, found = given.pop(NEGATIVE, None), {}
        for side, part in parts.items():
            output = TowerOutput(**given[side]) if side in given else self.encode_side(side, part, recorded)
            if output is not None:
                found[side] = (output, compute_content_groups(self.config.sides[side], part, output) if every else None)
        if not found:
            raise ValueError(
                f"no inputs: pass those of at least one side of this model ({', '.join(self.config.sides)})"
            )
        embedded = {side: self.embed_output(side, output, groups) for side, (output, groups) in found.items()}
        if any(recorded.values()):
            embedded = {side: embedded[side]._replace(output=output) for side, (output, _) in found.items()}
        if every:
            like = next(iter(embedded.values()))
            embedded |= {side: self.embed_absent(side, like) for side in self.config.sides if side not in embedded}
            embedded |= {NEGATIVE: self.embed_negatives(negatives, hard, like)} if negatives or hard else {}
        return {side: embedded[side] for side in (*self.config.sides, NEGATIVE) if side in embedded}

    def embed_negatives(
        self, inputs: Mapping[str, Tensor], given: Mapping[str, Tensor] | None, like: SideEmbeddings
    ) -> SideEmbeddings:
        """Embeds hard negatives by the tower of their side; `given` are the outputs of that tower if they exist
        already. Inputs and outputs are (batch, negatives, length, ...) each."""
        side, shape = self.negative_side, (given["mask"] if given else inputs["input_ids"]).shape[:2]
        if side is None:
            raise ValueError(
                f"hard negatives are texts, and this model's sides are {dict(self.config.sides)}: leave them out"
            )
        flat: dict[str, Any] = {name: value.flatten(0, 1) for name, value in (given or inputs).items()}
        output = TowerOutput(**flat) if given else self.encode_side(side, flat, {})
        if output is None:  # no row has a hard negative
            vectors, nothing = like.vectors.new_zeros(*shape, like.vectors.shape[1]), like.groups.new_zeros(shape)
            return SideEmbeddings(vectors, nothing.bool(), nothing)
        found = self.embed_output(side, output, compute_content_groups("text", flat, output))
        vectors, present, groups = (part.unflatten(0, shape) for part in (found.vectors, found.present, found.groups))
        return SideEmbeddings(vectors, present, groups)

    @property
    def negative_side(self) -> str | None:
        """The side that hard negatives belong to: documents, else text; None if it has no texts."""
        side = DOCUMENT if DOCUMENT in self.config.sides else "text"
        return side if self.config.sides.get(side) == "text" else None

    def encode_side(
        self, side: str, inputs: Mapping[str, Any], recorded: Mapping[str, Any], complete: bool = False
    ) -> TowerOutput | None:
        """Runs the side's tower on its inputs; returns None without inputs. With `complete`, raises ValueError for a
        row that has nothing to read."""
        modality = self.config.sides[side]
        tower = side if side in self.model.towers else modality
        if modality == "text":
            warn_short_texts(self.config.towers[tower], inputs.get("input_ids"))
        return self.model.encode_tower(tower, modality, inputs, recorded, complete)

    def embed_output(self, side: str, output: TowerOutput, groups: Tensor | None) -> SideEmbeddings:
        """Projects a tower's output to vectors of unit length."""
        present = output.mask.bool().any(dim=1)
        groups = torch.full_like(present, NO_GROUP, dtype=torch.long) if groups is None else groups
        return SideEmbeddings(F.normalize(self.project(side, pool_output(output)), dim=-1), present, groups)

    def embed_absent(self, side: str, like: SideEmbeddings) -> SideEmbeddings:
        """Builds the embeddings of a side that no row of the batch has; they keep its projection in the graph."""
        vectors = self.project(
            side, like.vectors.new_zeros(like.vectors.shape[0], compute_side_width(self.config, side))
        )
        return SideEmbeddings(vectors, torch.zeros_like(like.present), torch.full_like(like.groups, NO_GROUP))

    def project(self, side: str, vectors: Tensor) -> Tensor:
        """Projects (batch, pooled width) to the common space; without a projection, a side uses its modality's."""
        if not self.projections:
            return vectors
        return self.projections[side if side in self.projections else self.config.sides[side]](vectors)

    def contrast(
        self, sides: Mapping[str, SideEmbeddings], groups: Tensor | None = None, negative_groups: Tensor | None = None
    ) -> Tensor:
        """Computes the contrastive loss, a mean over all pairs of sides; hard negatives count in the pairs of their
        side.

        Raises ValueError for a single side, or sides whose rows do not correspond.
        """
        names = [side for side in sides if side != NEGATIVE]
        if len(names) < 2:
            raise ValueError(f"a contrastive loss compares two sides, and this model has only {', '.join(names)}")
        check_side_rows(sides, groups, negative_groups)
        check_present_sides(sides)
        if self.training:
            self.similarity.clamp_temperature()
        losses = []
        for first, second in itertools.combinations(names, 2):
            if first == self.negative_side:  # hard negatives, of all processes, are columns of the second side
                first, second = second, first
            counted = NEGATIVE in sides and second == self.negative_side
            hard = build_negative_arguments(sides[NEGATIVE], negative_groups) if counted else {}
            a, b = sides[first], sides[second]
            alike = torch.stack((a.groups, b.groups), dim=1)
            if groups is not None:
                alike = groups[:, [names.index(first), names.index(second)]]
            losses.append(self.loss(a.vectors, b.vectors, self.similarity, alike, a.present & b.present, **hard))
        return torch.stack(losses).mean()

    def compare(self, sides: Mapping[str, SideEmbeddings], with_loss: bool = False) -> dict[str, Tensor]:
        """Computes the scaled similarities of the first two sides: `logits` (rows of the first, rows of the second);
        for text and image also `logits_per_text` and `logits_per_image`. With a loss a row may lack a side; its
        similarities to it mean nothing."""
        if not with_loss:
            check_present_sides(sides)
        if len(sides) < 2:
            return {}
        first, second, *_ = sides
        logits = self.similarity(sides[first].vectors, sides[second].vectors)
        if (first, second) != ("text", "image"):
            return {"logits": logits}
        return {"logits": logits, "logits_per_text": logits, "logits_per_image": logits.T}

    @can_return_tuple
    @expand_signature
    def get_text_features(self, **inputs: Unpack[TextFeatureInputs]) -> TowerOutput:
        """Returns the text tower's output; `pooler_output` (batch, width) is projected, but not of unit length."""
        return self.get_features("text", inputs)

    @can_return_tuple
    @expand_signature
    def get_image_features(self, **inputs: Unpack[ImageFeatureInputs]) -> TowerOutput:
        """Returns the image tower's output, as `get_text_features` does."""
        return self.get_features("image", inputs)

    @can_return_tuple
    @expand_signature
    def get_audio_features(self, **inputs: Unpack[AudioFeatureInputs]) -> TowerOutput:
        """Returns the audio tower's output, as `get_text_features` does."""
        return self.get_features("audio", inputs)

    @can_return_tuple
    @expand_signature
    def get_video_features(self, **inputs: Unpack[VideoFeatureInputs]) -> TowerOutput:
        """Returns the video tower's output, as `get_text_features` does."""
        return self.get_features("video", inputs)

    @can_return_tuple
    @expand_signature
    def get_document_features(self, **inputs: Unpack[DocumentFeatureInputs]) -> TowerOutput:
        """Returns the output of documents, as `get_text_features` does; inputs without the prefix "document_"."""
        return self.get_features(DOCUMENT, inputs)

    def encode(self, rows: Any, processor: Callable[..., Any], side: str | None = None, **options: Any) -> Tensor:
        """Encodes rows in batches, or one item: see `plait.modeling.tasks.retrieval_encoding.encode_rows`."""
        return encode_rows(self, rows, processor, side, **options)

    def zero_shot(
        self, images: Any, labels: str | Sequence[str], processor: Callable[..., Any], **options: Any
    ) -> Tensor:
        """Classifies images by labels in words: see `plait.modeling.tasks.retrieval_encoding.classify_zero_shot`."""
        return classify_zero_shot(self, images, labels, processor, **options)

    def get_features(self, side: str, inputs: Mapping[str, Any]) -> TowerOutput:
        """Returns the output of one side's tower, its pooled vector projected.

        Raises ValueError for a side that the model lacks, or a row with nothing to encode.
        """
        if side not in self.config.sides:
            raise ValueError(f"this model has no {side} side, only {', '.join(self.config.sides)}")
        recorded = self.model.select_output_options(inputs)
        own = {name: value for name, value in inputs.items() if name not in recorded and value is not None}
        output = self.encode_side(side, own, recorded, complete=True)
        if output is None:
            raise ValueError(f"nothing to encode: no {side} in {', '.join(inputs) or 'no inputs'}")
        output.pooler_output = self.project(side, pool_output(output))
        return output

    features = get_features  # its earlier name
