"""Defines the tiny models whose folders are kept: every class, tower, fusion and connector, and what each is given."""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import plait

SIZES: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = {**SIZES, "vocab_size": 16, "max_position_embeddings": 12, "pad_token_id": 0}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
# beside others, a tower is only its embeddings: what joins them is what is looked at
WORDS = {**TEXT, "num_hidden_layers": 0, "output_norm": False}
PATCHES = {**IMAGE, "hidden_size": 6, "num_hidden_layers": 0, "output_norm": False}
FUSION = {**SIZES, "num_queries": 3, "resampler_layers": 1, "num_bottlenecks": 2, "tensor_size": 3, "tensor_rank": 2}
DECODER = {**TEXT, "norm_type": "rms_norm", "gated_mlp": True, "position_type": "none"}
DECODER |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
READER = {**DECODER, "cross_attention": True}
TOKENS = {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FRAMES = {**IMAGE, "model_type": "plait_vision"}
IMAGE_TOKEN = 15  # the last of the vocabulary

TOWERS: dict[str, dict[str, Any]] = {
    "text_post_norm": {
        "text_config": TEXT | {"norm_position": "post", "input_norm": True, "output_norm": False, "type_vocab_size": 2}
        | {"pooling": "first", "pooler_size": 8, "pooler_act": "tanh"}
    },
    "text_rotary": {
        "text_config": TEXT | {"position_type": "none", "rope_parameters": DECODER["rope_parameters"]}
        | {"norm_type": "rms_norm", "gated_mlp": True, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"qk_norm": True, "layer_scale": 0.1, "qkv_bias": False, "mlp_bias": False, "attention_out_bias": False}
        | {"pooling": "mean", "pooler_norm": True}
    },
    "text_counted_positions": {
        "text_config": TEXT | {"position_type": "counted", "position_offset": 1, "embedding_size": 4}
        | {"embedding_scale": 2.0, "pooling": "first_and_mean"}
    },
    "image_patches": {"vision_config": IMAGE | {"pooling": "first", "mask_token": True}},
    "image_convolutional_stem": {
        "vision_config": IMAGE | {"stem": "conv", "class_tokens": 0, "pooling": "attention", "image_size": [8, 12]}
    },
    "image_resnet": {"vision_config": {"model_type": "plait_cnn", "embedding_size": 4, "hidden_sizes": [4, 6]}
                     | {"depths": [1, 2], "image_size": 16}},
    "image_bottleneck": {"vision_config": {"model_type": "plait_cnn", "embedding_size": 4, "hidden_sizes": [8, 8]}
                         | {"depths": [1, 1], "layer_type": "bottleneck", "downsample_in_bottleneck": True}
                         | {"image_size": 16}},
    "image_efficientnet_lite": {
        "vision_config": {"model_type": "plait_cnn", "architecture": "efficientnet_lite", "layer_type": "inverted"}
        | {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 2], "kernel_sizes": [3, 5], "head_size": 12}
        | {"expand_ratios": [1, 2], "hidden_act": "relu6", "image_size": 16}
    },
    "audio_mel": {
        "audio_config": SIZES | {"model_type": "plait_audio", "num_mel_bins": 4, "max_source_positions": 50}
        | {"pooling": "mean"}
    },
    "audio_spectrogram": {
        "audio_config": SIZES | {"model_type": "plait_spectrogram", "num_mel_bins": 8, "max_length": 12}
        | {"patch_size": 4, "frequency_stride": 3, "time_stride": 3, "pooling": "mean_of_two", "pooler_norm": True}
    },
    "audio_waveform": {
        "audio_config": SIZES | {"model_type": "plait_waveform", "conv_dim": [6, 8], "conv_kernel": [4, 2]}
        | {"conv_stride": [2, 2], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        | {"norm_position": "post", "input_norm": True, "output_norm": False, "mask_token": True}
    },
    "audio_waveform_layer_norm": {
        "audio_config": SIZES | {"model_type": "plait_waveform", "conv_dim": [6, 8], "conv_kernel": [4, 2]}
        | {"conv_stride": [2, 2], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        | {"feat_extract_norm": "layer", "conv_bias": True, "pooling": "mean"}
    },
    "audio_lstm": {"audio_config": {"model_type": "plait_rnn", "num_mel_bins": 4, "rnn_size": 4}},
    "audio_gru": {
        "audio_config": {"model_type": "plait_rnn", "num_mel_bins": 4, "rnn_type": "gru", "rnn_size": 6}
        | {"num_hidden_layers": 1, "bidirectional": False, "input_norm": True, "pooling": "final", "pooler_size": 4}
        | {"pooler_act": "relu", "pooler_normalize": True}
    },
    "video_frames": {
        "video_config": SIZES | {"model_type": "plait_video", "image_config": FRAMES, "num_frames": 4}
        | {"pooling": "mean"}
    },
    "video_mean_of_frames": {
        "video_config": SIZES | {"model_type": "plait_video", "image_config": FRAMES, "temporal": "mean"}
        | {"frame_pooling": "none"}
    },
    "video_tubelets": {
        "video_config": IMAGE | {"model_type": "plait_tubelet", "num_frames": 4, "position_type": "sinusoidal"}
        | {"class_tokens": 1}
    },
    "video_tubelets_learned": {"video_config": IMAGE | {"model_type": "plait_tubelet", "num_frames": 4}},
    "decoder": {"decoder_config": DECODER | {"pooling": "last"}, **TOKENS},
}  # fmt: skip

FUSIONS = (
    "early late concatenate cross_attention gated_cross_attention co_attention bottleneck late_mean late_weighted "
    "late_concatenated tensor low_rank_tensor product_of_experts gated_multimodal_unit mixture_of_experts"
).split()
CONNECTORS = ("mlp", "resampler", "qformer")


class TinyModel(NamedTuple):
    """A tiny model: the name of its class, the fields of its config, its inputs and targets, and the other classes that
    load its folder, each with its inputs."""

    class_name: str
    config: dict[str, Any]
    inputs: dict[str, Tensor]
    readers: Mapping[str, dict[str, Tensor]] = {}


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Returns numbers around zero, the same ones in every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_texts(padding: str = "right", seed: int = 1, length: int = 5, highest: int = 14) -> dict[str, Tensor]:
    """Returns two texts of different lengths, without special tokens."""
    lengths = torch.tensor([length, length - 2])
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = torch.randint(4, highest + 1, (2, length), generator=torch.Generator().manual_seed(seed)) * mask
    if padding == "left":
        return {"input_ids": ids.flip(1), "attention_mask": mask.flip(1)}
    return {"input_ids": ids, "attention_mask": mask}


def make_inputs(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the inputs of all towers of a config."""
    inputs: dict[str, Tensor] = {}
    if "text_config" in config:
        inputs |= make_texts()
    if vision := config.get("vision_config"):
        size = vision["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        inputs["pixel_values"] = draw(2, 3, height, width)
    if audio := config.get("audio_config"):
        shapes = {"plait_audio": (4, 12), "plait_rnn": (4, 6), "plait_spectrogram": (12, 8), "plait_waveform": (40,)}
        name = "input_features" if audio["model_type"] in ("plait_audio", "plait_rnn") else "input_values"
        inputs[name] = draw(2, *shapes[audio["model_type"]])
    if "video_config" in config:
        inputs["pixel_values_videos"] = draw(2, 4, 3, 8, 8)
    if "decoder_config" in config:
        inputs |= {"decoder_input_ids": make_texts(seed=2)["input_ids"].clamp(min=4)} if inputs else make_texts("left")
    return inputs


def make_labels(ids: Tensor) -> Tensor:
    """Returns labels for a text: its tokens, padding left out of the loss."""
    return ids.masked_fill((ids == 0) | (ids == IMAGE_TOKEN), -100)


def join_towers(strategy: str = "early", **fields: Any) -> dict[str, Any]:
    """Returns the config of a small text tower and a small image tower under a fusion."""
    return {"text_config": WORDS, "vision_config": PATCHES, "fusion_config": {**FUSION, "strategy": strategy, **fields}}


def list_base_models() -> dict[str, TinyModel]:
    """Returns a `PlaitModel` of every tower, fusion and connector, and of towers that a decoder reads."""
    configs = {f"model_{name}": config for name, config in TOWERS.items()}
    configs |= {f"model_fusion_{name}": join_towers(name) for name in FUSIONS}
    configs |= {f"model_connector_{name}": join_towers(connector=name) for name in CONNECTORS}
    configs["model_four_modalities"] = {
        **join_towers("gated_cross_attention", query="image"),
        "audio_config": {"model_type": "plait_rnn", "num_mel_bins": 4, "rnn_size": 4, "num_hidden_layers": 1},
        "video_config": TOWERS["video_mean_of_frames"]["video_config"],
    }
    gates = {"num_hidden_layers": 2, "cross_attention_layers": [1], "gated_cross_attention": True}
    configs["model_decoder_of_fused_towers"] = {**join_towers(), "decoder_config": READER | gates, **TOKENS}
    return {name: TinyModel("PlaitModel", config, make_inputs(config)) for name, config in configs.items()}


def list_classifiers() -> dict[str, TinyModel]:
    """Returns classifiers of text and image, audio, images and video."""
    classes = {"id2label": {0: "blue", 1: "green", 2: "red"}}
    configs = {
        "classification_text_image": {**join_towers("co_attention"), **classes},
        "classification_audio": {**TOWERS["audio_waveform_layer_norm"], **classes},
        "classification_image": {**TOWERS["image_bottleneck"], **classes, "classifier_bias": False},
        "classification_image_distilled": {"vision_config": IMAGE | {"class_tokens": 2, "pooling": "first"}}
        | {**classes, "distillation_head": True},
        "classification_text_video": {"text_config": WORDS, "video_config": TOWERS["video_tubelets"]["video_config"]}
        | {**classes, "fusion_config": {**FUSION, "strategy": "late"}, "problem_type": "multi_label_classification"},
        "classification_wrapped_image": {"text_config": WORDS, "fusion_config": FUSION, **classes}
        | {"vision_config": {"model_type": "convnext", "image_size": 16, "patch_size": 4, "num_stages": 2}
           | {"hidden_sizes": [4, 8], "depths": [1, 1]}},
    }  # fmt: skip
    labels = {name: {"labels": torch.tensor([2, 0])} for name in configs}
    labels["classification_text_video"] = {"labels": torch.eye(3)[[0, 2]]}
    made = {name: make_inputs(config) for name, config in configs.items()}
    readers = {"classification_text_image": {"PlaitModel": made["classification_text_image"]}}
    return {
        name: TinyModel("PlaitForClassification", configs[name], {**inputs, **labels[name]}, readers.get(name, {}))
        for name, inputs in made.items()
    }


def list_causal_models() -> dict[str, TinyModel]:
    """Returns decoders alone, and with the tokens of images in their text."""
    text = make_texts("left")
    alone = {**text, "labels": make_labels(text["input_ids"])}
    image = {"input_ids": torch.full((2, 5), IMAGE_TOKEN), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    mixed = {name: torch.cat((image[name], value), dim=1) for name, value in make_texts().items()}
    padding = (mixed["attention_mask"] == 0).sum(dim=1).tolist()
    mixed = {
        name: torch.stack([row.roll(count) for row, count in zip(value, padding, strict=True)])
        for name, value in mixed.items()
    }
    mixed |= {"pixel_values": draw(2, 3, 8, 8), "labels": make_labels(mixed["input_ids"])}
    inline = {"vision_config": PATCHES, "fusion_config": {**FUSION, "strategy": "inline", "connector": "mlp"}}
    inline |= {"image_token_id": IMAGE_TOKEN, **TOKENS}
    wide = DECODER | {"max_position_embeddings": 24}
    wrapped = {"model_type": "opt", "vocab_size": 16, "hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16}
    wrapped |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
    wrapped |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    learned = TEXT | {"layer_types": ["sliding_attention"], "sliding_window": 3}
    untied = {"tie_word_embeddings": False, "lm_head_bias": True}
    made: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {
        "causal_lm": ({"decoder_config": DECODER, **TOKENS}, alone),
        "causal_lm_untied": ({"decoder_config": learned, **untied, **TOKENS}, alone),
        "causal_lm_image": ({"decoder_config": wide, "bidirectional_images": True, **inline}, mixed),
        "causal_lm_wrapped_image": ({"decoder_config": wrapped, **inline}, mixed),
    }
    return {name: TinyModel("PlaitForCausalLM", config, inputs) for name, (config, inputs) in made.items()}


def list_conditional_models() -> dict[str, TinyModel]:
    """Returns decoders that read the towers: of images, text, audio, and of text and image together."""
    narrow = FUSION | {"strategy": "concatenate"}
    configs = {
        "generation_image": {"vision_config": PATCHES, "fusion_config": narrow, "decoder_config": READER},
        "generation_text": {"text_config": TEXT, "decoder_config": READER | {"vocab_size": 14}},
        "generation_text_tied": {"text_config": WORDS, "decoder_config": TEXT | {"cross_attention": True}}
        | {"tie_encoder_embeddings": True, "lm_head_bias": True},
        "generation_audio": {**TOWERS["audio_mel"], "decoder_config": READER, "tie_word_embeddings": False},
        "generation_text_image": {**join_towers("bottleneck"), "decoder_config": READER | {"context_size": 8}},
    }
    made = {name: make_inputs(config) for name, config in configs.items()}
    for inputs in made.values():
        inputs["decoder_input_ids"] = inputs["decoder_input_ids"].clamp(max=13)
        inputs["labels"] = make_labels(make_texts(seed=3)["input_ids"].clamp(max=13))
    return {
        name: TinyModel("PlaitForConditionalGeneration", {**configs[name], **TOKENS}, inputs)
        for name, inputs in made.items()
    }


def list_retrieval_models() -> dict[str, TinyModel]:
    """Returns towers of one space: text and image, texts and documents, text and audio."""
    documents = {f"document_{name}": value for name, value in make_texts(seed=2, length=6).items()}
    rnn = {"model_type": "plait_rnn", "num_mel_bins": 4, "rnn_size": 4, "num_hidden_layers": 1}
    apart = {"text_config": TEXT | {"pooling": "mean"}, "vision_config": PATCHES | {"pooling": "first"}}
    sigmoid = {"projection_dim": 6, "loss": "sigmoid", "document": "text", "logit_bias_init_value": -3.0}
    configs = {
        "retrieval_text_image": {**apart, "retrieval_config": {"projection_dim": 6}},
        "retrieval_documents": {"text_config": WORDS, "document_config": TEXT, "retrieval_config": sigmoid},
        "retrieval_shared_tower": {"text_config": TEXT, "retrieval_config": {"projection_dim": 6, "document": "text"}},
        "retrieval_text_audio": {"text_config": WORDS, "audio_config": rnn}
        | {"retrieval_config": {"projection_dim": None, "hardness": 0.5}},
    }
    made = {name: make_inputs(config) for name, config in configs.items()}
    for name in ("retrieval_documents", "retrieval_shared_tower"):
        made[name] |= documents
    return {name: TinyModel("PlaitForRetrieval", configs[name], inputs) for name, inputs in made.items()}


def list_readers_of_text() -> dict[str, TinyModel]:
    """Returns models that predict hidden tokens, or where an answer begins and ends."""
    text, segments = make_texts(), {"token_type_ids": torch.tensor([[0, 0, 1, 1, 1]] * 2)}
    two_segments = {"text_config": TEXT | {"type_vocab_size": 2}}
    narrow = {"text_config": TEXT | {"embedding_size": 4, "mlm_act": "relu"}}
    hidden = {"labels": make_labels(text["input_ids"])}
    answers = {"start_positions": torch.tensor([1, 0]), "end_positions": torch.tensor([3, 2])}
    image = {"pixel_values": draw(2, 3, 8, 8)}
    masked, asked = "PlaitForMaskedLM", "PlaitForQuestionAnswering"
    return {
        "masked_lm": TinyModel(masked, narrow, {**text, **hidden}),
        "masked_lm_text_image": TinyModel(masked, join_towers("cross_attention"), {**text, **image, **hidden}),
        "question_answering": TinyModel(asked, two_segments, {**text, **segments, **answers}),
        "question_answering_text_image": TinyModel(asked, join_towers(), {**text, **image, **answers}),
    }


def list_pretraining_models() -> dict[str, TinyModel]:
    """Returns models of all objectives, whose folder other classes load too, and of masked images alone."""
    text, patches = make_texts(), torch.tensor([[True, False, True, False], [False, True, True, True]])
    hidden = (torch.arange(5) % 2 == 0) & (text["attention_mask"] == 1)
    targets = {"input_ids_masked": text["input_ids"].masked_fill(hidden, 3), "bool_masked_pos": patches}
    targets |= {"mlm_labels": text["input_ids"].masked_fill(~hidden, -100), "labels": make_labels(text["input_ids"])}
    config = {**join_towers(), "decoder_config": READER | {"context_size": 8}, **TOKENS}
    config |= {"retrieval_config": {"projection_dim": 6}, "objectives": {"masked_lm": 0.5, "masked_image": 1.0}}
    config["objectives"] |= {"contrastive": 1.0, "matching": 1.0, "captioning": 2.0}
    written = make_inputs(config)
    read = {name: value for name, value in written.items() if name != "decoder_input_ids"}
    readers = {"PlaitForMaskedLM": read, "PlaitForRetrieval": read}
    readers |= {"PlaitForConditionalGeneration": written, "PlaitModel": written}
    image = {"vision_config": TOWERS["image_patches"]["vision_config"], "objectives": {"masked_image": 1.0}}
    return {
        "pretraining": TinyModel("PlaitForPreTraining", config, {**read, **targets}, readers),
        "pretraining_image": TinyModel(
            "PlaitForPreTraining", image, {"pixel_values": draw(2, 3, 8, 8), "bool_masked_pos": patches}
        ),
    }


def list_image_generators() -> dict[str, TinyModel]:
    """Returns models that generate images from a text, also by latents, and from a text and an image, and an
    autoencoder."""
    targets = {"target_pixel_values": draw(2, 3, 8, 8, seed=4), "times": torch.tensor([0.2, 0.9])}
    targets["noise"] = draw(2, 3, 8, 8, seed=5)
    grid = {**SIZES, "image_size": 8, "patch_size": 4, "context_size": 8}
    plain = {
        "prediction": "velocity",
        "relative_positions": False,
        "adaptive_gate": None,
        "cross_attention_layers": [0],
    }
    coder = {"latent_channels": 2, "hidden_sizes": [4, 8], "group_size": 4}
    latents = {"image_size": 4, "patch_size": 2, "num_channels": 2, "relative_decay": [0.0, 1.0]}
    configs = {
        "image_generation_text": {"text_config": TEXT, "denoiser_config": grid},
        "image_generation_text_image": {**join_towers(), "denoiser_config": grid | plain},
        "image_generation_latents": {"text_config": TEXT, "denoiser_config": grid | latents}
        | {"autoencoder_config": coder},
    }
    made = {name: make_inputs(config) | targets for name, config in configs.items()}
    made["image_generation_latents"] |= {"noise": draw(2, 2, 4, 4, seed=5)}
    found = {name: TinyModel("PlaitForImageGeneration", configs[name], inputs) for name, inputs in made.items()}
    images = {"target_pixel_values": targets["target_pixel_values"]}
    found["image_autoencoding"] = TinyModel("PlaitForImageAutoencoding", {"autoencoder_config": coder}, images)
    return found


@cache
def list_tiny_models() -> dict[str, TinyModel]:
    """Returns all tiny models that are made from a config, by the name of their folder."""
    return {
        **list_base_models(),
        **list_classifiers(),
        **list_causal_models(),
        **list_conditional_models(),
        **list_retrieval_models(),
        **list_readers_of_text(),
        **list_pretraining_models(),
        **list_image_generators(),
    }


def fill_with_numbers(module: nn.Module) -> Any:
    """Draws every parameter and statistic: zeros, ones and fixed tables would hide that one is not read."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.normal_(std=0.3)
    return module.eval()


def build(tiny: TinyModel) -> Any:
    """Returns the model with drawn weights, the same ones in every call; one that generates writes a few tokens."""
    torch.manual_seed(0)
    model = getattr(plait, tiny.class_name)(plait.PlaitConfig(**tiny.config))
    fill_with_numbers(model)
    if model.can_generate():
        model.generation_config.max_new_tokens = 5
    return model
