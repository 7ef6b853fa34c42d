"""The public classes in 14 shapes, as the testers of transformers' common suite: tiny configs and their inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import plait

LENGTH, PATCHES, IMAGE_SIZE, CLIP = 7, 5, 16, 16  # tokens of a text, tokens and pixels of an image, frames of a clip
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TEXT = {**SIZES, "vocab_size": 99, "pad_token_id": 0, "pooling": "first", "pooler_size": 32, "type_vocab_size": 2}
IMAGE = {**SIZES, "image_size": IMAGE_SIZE, "patch_size": 8, "pooling": "first"}
AUDIO = {**SIZES, "num_mel_bins": 8, "max_source_positions": CLIP // 2}
VIDEO = {**SIZES, "model_type": "plait_tubelet", "image_size": IMAGE_SIZE, "patch_size": 8, "num_frames": 4}
DECODER = {**SIZES, "vocab_size": 99, "position_type": "none"}
DECODER |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
LEARNED = {**SIZES, "vocab_size": 99, "max_position_embeddings": 64}
READER = {**DECODER, "cross_attention": True}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
IMAGE_TOKEN = 3
WITHOUT_POOLER = {**TEXT, "pooling": "none", "pooler_size": None}  # as `compose` makes towers that are fused
FUSED = {"text_config": WITHOUT_POOLER, "vision_config": {**IMAGE, "pooling": "none"}}
PRETRAINING = {"contrastive": 1.0, "matching": 1.0, "masked_lm": 1.0}
STATES = ("test_attention_outputs", "test_hidden_states_output", "test_retain_grad_hidden_states_attentions")
LATE = dict.fromkeys(STATES, "late fusion has no joint transformer, hence neither hidden states nor attentions")
JOINED = dict.fromkeys(STATES, "concatenation has no joint transformer: the encoder's states are those of its towers")
APART = dict.fromkeys(STATES, "towers apart return the states of each tower in encoder_outputs, as CLIP does")
NO_TEXT = dict.fromkeys(("test_inputs_embeds", "test_inputs_embeds_matches_input_ids"), "there are no input ids")
NO_EMBEDDING = {"test_model_get_set_embeddings": "the input layer of an image tower is no nn.Embedding (ViT's neither)"}
NO_ROTARY = dict.fromkeys(
    ("test_model_rope_scaling_from_config", "test_model_rope_with_partial_rotation"), "the text has no rotary positions"
)
HIDDEN = {"test_eager_matches_sdpa_inference": "the suite passes bool_masked_pos, but not the other targets of a loss"}
TEXT_OF_DECODER = dict.fromkeys(
    (*NO_TEXT, "test_resize_tokens_embeddings", "test_resize_embeddings_untied"),
    "the suite passes input_ids to the encoder, which has no text (its tests of Whisper are their own, too)",
)
INLINE = {
    "test_inputs_embeds": "the suite passes embeddings, in which no image token can be found, without positions",
    "test_eager_matches_sdpa_inference": "the suite passes the text without its images, which is an error",
}
SIDES = dict.fromkeys(
    ("test_get_audio_features", "test_get_video_features"), "the sides of this shape are text and image"
)


COMMON = {
    "test_reverse_loading_mapping": "the conversion for files with scalar weights changes shapes and no names, and is "
    "one for all classes",
}


class Shape(NamedTuple):
    """A class with the parts of its config and of its inputs. length: tokens that its attentions are over; skips:
    reasons by the start of a test's name, for what the shape does not have."""

    kind: type
    parts: dict[str, Any]
    inputs: tuple[str, ...]
    length: int = LENGTH
    skips: dict[str, str] = {}


def fused(strategy: str, **fields: Any) -> dict[str, Any]:
    """Returns the parts of a text and an image tower with a fusion."""
    return {**FUSED, "fusion_config": {**SIZES, "strategy": strategy, **fields}}


def captioner(**fields: Any) -> dict[str, Any]:
    """Returns the parts of an image tower whose tokens a decoder cross-attends to."""
    decoder = {**READER, **fields}
    return {"vision_config": IMAGE, "decoder_config": decoder, "fusion_config": {**SIZES, "strategy": "concatenate"}}


SHAPES = {
    "early": Shape(plait.PlaitForClassification, fused("early"), ("text", "image"), LENGTH + PATCHES),
    "cross": Shape(plait.PlaitForClassification, fused("cross_attention", query="text"), ("text", "image")),
    "late": Shape(plait.PlaitForClassification, fused("late"), ("text", "image"), skips=LATE),
    "captioner": Shape(
        plait.PlaitForConditionalGeneration, captioner(), ("image", "target"), PATCHES, JOINED | TEXT_OF_DECODER
    ),
    "gated": Shape(
        plait.PlaitForConditionalGeneration,
        captioner(gated_cross_attention=True),
        ("image", "target"),
        PATCHES,
        JOINED | TEXT_OF_DECODER,
    ),
    "inline": Shape(
        plait.PlaitForCausalLM,
        {
            "vision_config": IMAGE,
            "decoder_config": DECODER,
            "fusion_config": {**SIZES, "strategy": "inline"},
            "image_token_id": IMAGE_TOKEN,
        },
        ("inline", "image"),
        LENGTH + PATCHES,
        INLINE,
    ),
    "retrieval": Shape(
        plait.PlaitForRetrieval,
        {"text_config": TEXT, "vision_config": IMAGE, "retrieval_config": {"projection_dim": 24}},
        ("text", "image"),
        skips=APART | SIDES,
    ),
    "pretraining": Shape(
        plait.PlaitForPreTraining,
        {"text_config": TEXT, "vision_config": IMAGE, "fusion_config": SIZES, "objectives": PRETRAINING},
        ("text", "image"),
        LENGTH + PATCHES,
        HIDDEN,
    ),
    "bert": Shape(plait.PlaitForClassification, {"text_config": TEXT}, ("text",)),
    "mlm": Shape(plait.PlaitForMaskedLM, {"text_config": WITHOUT_POOLER}, ("text",)),
    "gpt": Shape(plait.PlaitForCausalLM, {"decoder_config": LEARNED}, ("text",)),
    "vit": Shape(plait.PlaitForClassification, {"vision_config": IMAGE}, ("image",), PATCHES, NO_TEXT | NO_EMBEDDING),
    "whisper": Shape(
        plait.PlaitForConditionalGeneration,
        {"audio_config": AUDIO, "decoder_config": {**LEARNED, "cross_attention": True}},
        ("audio", "target"),
        CLIP // 2,
        TEXT_OF_DECODER,
    ),
    "tav": Shape(
        plait.PlaitForClassification,
        {
            "text_config": WITHOUT_POOLER,
            "audio_config": AUDIO,
            "video_config": VIDEO,
            "fusion_config": {**SIZES, "strategy": "early"},
        },
        ("text", "audio", "video"),
        LENGTH + CLIP // 2 + 8,
    ),
    # beyond the 14: the classes that they leave out
    "model-text": Shape(plait.PlaitModel, {"text_config": TEXT}, ("text",), skips=NO_ROTARY),
    "model-decoder": Shape(plait.PlaitModel, {"decoder_config": DECODER}, ("text",)),
    "model-early": Shape(plait.PlaitModel, fused("early"), ("text", "image"), LENGTH + PATCHES, NO_ROTARY),
    "answers": Shape(plait.PlaitForQuestionAnswering, {"text_config": WITHOUT_POOLER}, ("text",)),
    "translator": Shape(
        plait.PlaitForConditionalGeneration,
        {"text_config": WITHOUT_POOLER, "decoder_config": READER, "tie_encoder_embeddings": True},
        ("text", "target"),
    ),
}


def random_ids(batch: int, length: int) -> Tensor:
    """Returns ids that are neither padding nor special tokens."""
    return torch.randint(IMAGE_TOKEN + 1, 99, (batch, length))


INPUTS: dict[str, Callable[[int], dict[str, Tensor]]] = {
    "text": lambda batch: {
        "input_ids": random_ids(batch, LENGTH),
        "attention_mask": torch.ones(batch, LENGTH, dtype=torch.long),
    },
    "inline": lambda batch: {
        "input_ids": torch.cat((torch.full((batch, PATCHES), IMAGE_TOKEN), random_ids(batch, LENGTH)), dim=1),
        "attention_mask": torch.ones(batch, PATCHES + LENGTH, dtype=torch.long),
    },
    "image": lambda batch: {"pixel_values": torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE)},
    "audio": lambda batch: {"input_features": torch.rand(batch, 8, CLIP)},
    "video": lambda batch: {"pixel_values_videos": torch.rand(batch, 4, 3, IMAGE_SIZE, IMAGE_SIZE)},
    "target": lambda batch: {"decoder_input_ids": random_ids(batch, LENGTH)},
}


class Tester:
    """What the common suite calls a model tester: makes configs and inputs of a shape, and knows their sizes."""

    num_hidden_layers, num_attention_heads, hidden_size = 2, 4, 32
    is_training, batch_size, image_size, patch_size = True, 3, IMAGE_SIZE, 8

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.seq_length = LENGTH if "target" in shape.inputs or "inline" not in shape.inputs else shape.length
        self.encoder_seq_length = self.key_length = shape.length
        self.decoder_seq_length = self.decoder_key_length = LENGTH

    def get_config(self) -> plait.PlaitConfig:
        """Returns the shape's config."""
        tokens = TOKENS if "decoder_config" in self.shape.parts else {}
        return plait.PlaitConfig(**self.shape.parts, **tokens, num_labels=3)

    def prepare_config_and_inputs_for_common(self) -> tuple[plait.PlaitConfig, dict[str, Tensor]]:
        """Returns the shape's config and inputs, as the suite asks for them."""
        inputs: dict[str, Tensor] = {}
        for name in self.shape.inputs:
            inputs |= INPUTS[name](self.batch_size)
        return self.get_config(), inputs

    def add_labels(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the inputs with the targets of the shape's class."""
        kind, batch = self.shape.kind, self.batch_size
        if kind is plait.PlaitForClassification:
            return {**inputs, "labels": torch.zeros(batch, dtype=torch.long)}
        if kind is plait.PlaitForQuestionAnswering:
            return {**inputs, "start_positions": torch.zeros(batch).long(), "end_positions": torch.ones(batch).long()}
        if kind is plait.PlaitForRetrieval:
            return {**inputs, "return_loss": True}
        if kind is plait.PlaitForPreTraining:
            hidden = torch.arange(LENGTH).expand(batch, -1) % 3 == 1
            known = inputs["input_ids"].masked_fill(~hidden, -100)
            return {**inputs, "input_ids_masked": inputs["input_ids"].masked_fill(hidden, 4), "mlm_labels": known}
        if kind is plait.PlaitModel:
            return inputs
        return {**inputs, "labels": torch.full_like(inputs.get("decoder_input_ids", inputs.get("input_ids")), 5)}
