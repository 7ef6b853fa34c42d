"""A tiny model of every family: all that the core knows, and a part of those that are wrapped."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor, nn

from plait.configuration import (
    PlaitAudioConfig,
    PlaitCNNConfig,
    PlaitRNNConfig,
    PlaitTextConfig,
    PlaitVideoConfig,
    PlaitVisionConfig,
)
from plait.modeling.checkpoints import write_component
from plait.modeling.checkpoints.component import Component
from plait.modeling.towers.cnn import ConvolutionalTower
from plait.training.data.word_vectors import save_word_tower

VOCABULARY, PIXELS, FRAMES = 64, 32, 4  # tokens known, pixels a side, frames of a video

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "intermediate_size": 48, **SIZES}
CAUSAL = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**CAUSAL, "num_key_value_heads": 2}
IMAGE = {"image_size": PIXELS, "patch_size": 8, "intermediate_size": 48, **SIZES}
DINO = {"image_size": PIXELS, "patch_size": 8, **SIZES}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
EFFICIENT = {"image_size": PIXELS, "width_coefficient": 0.1, "depth_coefficient": 0.3, "hidden_dim": 128}
CLIP = {**TEXT, "bos_token_id": 0, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
GPT_NEO = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 40}
GPT_NEO |= {"attention_types": [[["global", "local"], 1]], "window_size": 4, "bos_token_id": 0, "eos_token_id": 0}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
BART = {"vocab_size": VOCABULARY, "d_model": 32, "max_position_embeddings": 40, "pad_token_id": 0}
BART |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
BART |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
OPT = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "ffn_dim": 48, "word_embed_proj_dim": 16, **SIZES}
MODERNBERT = {**CAUSAL, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}
DEBERTA = {**TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["c2p", "p2c"]}
SWIN = {"image_size": PIXELS, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
MOBILEVIT = {"image_size": PIXELS, "hidden_sizes": [16, 24, 32], "num_attention_heads": 2}
MOBILEVIT |= {"neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]}
WORDS = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 0, "num_attention_heads": 1}
MEL = {"num_mel_bins": 8, "intermediate_size": 48, **SIZES}
WHISPER = {**{key: BART[key] for key in BART if key[:8] in ("encoder_", "decoder_")}, "vocab_size": VOCABULARY}
WHISPER |= {"d_model": 32, "num_mel_bins": 8, "max_source_positions": 10, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SPECTROGRAM = {**MEL, "max_length": 20, "patch_size": 4, "frequency_stride": 4, "time_stride": 4}
WAVE = {**SIZES, "intermediate_size": 48, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2]}
WAVE |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
WRAPPED_WAVE = {**WAVE, "layerdrop": 0.0}  # every layer learns in every step
DATA2VEC = {**WRAPPED_WAVE, "conv_pos_kernel_size": 3, "num_conv_pos_embedding_groups": 2}
RNN = {"num_mel_bins": 8, "rnn_size": 16}
TUBELETS = {**SIZES, "intermediate_size": 48, "image_size": PIXELS, "num_frames": FRAMES}
VIDEOMAE = {**TUBELETS, "patch_size": 16, "tubelet_size": 2}
JEPA = {**SIZES, "crop_size": PIXELS, "patch_size": 16, "frames_per_clip": FRAMES, "tubelet_size": 2}
JEPA |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
FRAME_TOWER = {"model_type": "plait_vision", **IMAGE, "patch_size": 16}
LITE = {"architecture": "efficientnet_lite", "layer_type": "inverted", "hidden_act": "relu6", "norm_eps": 1e-3}
LITE |= {"image_size": PIXELS, "embedding_size": 8, "hidden_sizes": [8, 16], "head_size": 32, "depths": [1, 1]}
LITE |= {"strides": [1, 2], "kernel_sizes": [3, 5], "expand_ratios": [1, 6]}


class Family(NamedTuple):
    """A name, the model type with the fields of a tiny config, whether the core knows the family, and what a clip of
    sound is to it: the name of the input and its shape."""

    name: str
    model_type: str
    fields: dict[str, Any]
    native: bool = True
    clip: tuple[str, tuple[int, ...]] = ("", ())


TEXTS = (
    Family("bert", "bert", TEXT),
    Family("roberta", "roberta", {**TEXT, "pad_token_id": 1}),
    Family("xlm-roberta", "xlm-roberta", {**TEXT, "pad_token_id": 1}),
    Family("distilbert", "distilbert", DISTILBERT),
    Family("electra", "electra", {**TEXT, "embedding_size": 16}),
    Family("gpt2", "gpt2", GPT2),
    Family("gpt-neo", "gpt_neo", GPT_NEO),
    Family("llama", "llama", LLAMA),
    Family("mistral", "mistral", {**LLAMA, "sliding_window": 4}),
    Family("qwen2", "qwen2", LLAMA),
    Family("qwen3", "qwen3", {**LLAMA, "head_dim": 8}),
    Family("clip-text", "clip_text_model", CLIP),
    Family("siglip-text", "siglip", {"text_config": TEXT, "vision_config": IMAGE}),
    Family("modernbert", "modernbert", MODERNBERT, native=False),
    Family("albert", "albert", {**TEXT, "embedding_size": 16}, native=False),
    Family("deberta-v2", "deberta-v2", DEBERTA, native=False),
    Family("mpnet", "mpnet", TEXT, native=False),
    Family("t5", "t5", T5, native=False),
    Family("bart", "bart", BART),
    Family("align-text", "align", {"text_config": TEXT, "vision_config": EFFICIENT}, native=False),
    Family("opt", "opt", OPT, native=False),
    Family("gpt-neox", "gpt_neox", CAUSAL, native=False),
    Family("word-vectors", "plait_text", WORDS),
)
IMAGES = (
    Family("vit", "vit", IMAGE),
    Family("deit", "deit", IMAGE),
    Family("dinov2", "dinov2", DINO),
    Family("dinov2-swiglu", "dinov2", {**DINO, "use_swiglu_ffn": True}),
    Family("clip-vision", "clip", {"text_config": CLIP, "vision_config": IMAGE}),
    Family("siglip-vision", "siglip_vision_model", IMAGE),
    Family("resnet", "resnet", {"embedding_size": 8, "hidden_sizes": [8, 16, 32], "depths": [1, 1, 1]}),
    Family("efficientnet-lite", "plait_cnn", LITE),
    Family("conv-stem", "plait_vision", {**IMAGE, "stem": "conv"}),
    Family("convnext", "convnext", {"image_size": PIXELS, **STAGES}, native=False),
    Family("swin", "swin", SWIN, native=False),
    Family("regnet", "regnet", {"embedding_size": 8, "groups_width": 8, **STAGES}, native=False),
    Family("beit", "beit", IMAGE, native=False),
    Family("mobilevit", "mobilevit", MOBILEVIT, native=False),
    Family("efficientnet", "efficientnet", EFFICIENT, native=False),
    Family("dinov2-registers", "dinov2_with_registers", DINO, native=False),
    Family("chinese-clip-vision", "chinese_clip", {"text_config": TEXT, "vision_config": IMAGE}, native=False),
)
FEATURES, SAMPLES = ("input_features", (8, 20)), ("input_values", (90,))
AUDIOS = (
    Family("whisper", "whisper", WHISPER, clip=FEATURES),
    Family("ast", "audio-spectrogram-transformer", SPECTROGRAM, clip=("input_values", (20, 8))),
    Family("wav2vec2", "wav2vec2", WAVE, clip=SAMPLES),
    Family("wav2vec2-stable", "wav2vec2", {**WAVE, **STABLE}, clip=SAMPLES),
    Family("hubert", "hubert", WAVE, clip=SAMPLES),
    Family("hubert-stable", "hubert", {**WAVE, **STABLE}, clip=SAMPLES),
    Family("lstm", "plait_rnn", RNN, clip=FEATURES),
    Family("gru", "plait_rnn", {**RNN, "rnn_type": "gru"}, clip=FEATURES),
    Family("mel-transformer", "plait_audio", {**MEL, "max_source_positions": 10}, clip=FEATURES),
    Family("wavlm", "wavlm", WRAPPED_WAVE, native=False, clip=SAMPLES),
    Family("sew", "sew", WRAPPED_WAVE, native=False, clip=SAMPLES),
    Family("data2vec-audio", "data2vec-audio", DATA2VEC, native=False, clip=SAMPLES),
)
VIDEOS = (
    Family("videomae", "videomae", VIDEOMAE),
    Family("vivit", "vivit", {**TUBELETS, "tubelet_size": [2, 16, 16]}),
    Family("frames", "plait_video", {"image_config": FRAME_TOWER}),
    Family("frames-mean", "plait_video", {"image_config": FRAME_TOWER, "temporal": "mean"}),
    Family("timesformer", "timesformer", {**IMAGE, "patch_size": 16, "num_frames": FRAMES}, native=False),
    Family("vjepa2", "vjepa2", JEPA, native=False),
)
FAMILIES = {"text": TEXTS, "image": IMAGES, "audio": AUDIOS, "video": VIDEOS}
FRESH = (PlaitVisionConfig, PlaitAudioConfig, PlaitRNNConfig, PlaitVideoConfig)


def example(modality: str, family: Family, rows: int) -> dict[str, Tensor]:
    """Inputs of a tower of this family: padded texts, a picture, a clip or a video a row."""
    generator = torch.Generator().manual_seed(len(modality))
    if modality == "text":
        ids = torch.randint(3, VOCABULARY - 1, (rows, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 6:] = 0
        return {"input_ids": ids, "attention_mask": mask}
    clip = {"image": ("pixel_values", (3, PIXELS, PIXELS)), "audio": family.clip}
    name, shape = clip.get(modality, ("pixel_values_videos", (FRAMES, 3, PIXELS, PIXELS)))
    return {name: torch.randn(rows, 1, *shape, generator=generator)}


def without(inputs: dict[str, Tensor], modality: str, lacking: int) -> dict[str, Tensor]:
    """The inputs of a tower, the row `lacking` without any."""
    if modality == "text":
        mask = inputs["attention_mask"].clone()
        mask[lacking] = 0
        return {**inputs, "attention_mask": mask}
    rows = len(next(iter(inputs.values())))
    return {**inputs, f"{modality}_present": (torch.arange(rows) != lacking)[:, None]}


def source_of(family: Family, folder: Path) -> str | hf.PreTrainedConfig:
    """What `compose` takes: the folder of a checkpoint in the family's own format; a config where there is none."""
    config = hf.AutoConfig.for_model(family.model_type, **family.fields)
    if isinstance(config, FRESH):
        return config
    if isinstance(config, PlaitCNNConfig):
        write_lite(config, folder)
    elif isinstance(config, PlaitTextConfig):
        write_words(config, folder)
    else:
        drawn(hf.AutoModel.from_config(config)).save_pretrained(folder)
    return str(folder)


def write_lite(config: PlaitCNNConfig, folder: Path) -> None:
    """A checkpoint of EfficientNet-lite, which transformers does not have: written from our tower."""
    names = {"repeats": config.depths, "kernel": config.kernel_sizes}
    names |= {"stride": config.strides, "expansion": config.expand_ratios}
    stages = [dict(zip(names, stage, strict=True)) for stage in zip(*names.values(), strict=True)]
    config.family = "efficientnet_lite"
    config.source_config = {"architecture": "EfficientNet-Lite", "image_size": config.image_size, "stages": stages}
    folder.mkdir(parents=True)
    write_component(Component(config, dict(drawn(ConvolutionalTower(config)).state_dict()), {}), folder)


def write_words(config: PlaitTextConfig, folder: Path) -> None:
    """A tower of static word vectors."""
    vocabulary = [f"word{number}" for number in range(config.vocab_size - 2)]
    save_word_tower(torch.randn(len(vocabulary), config.hidden_size), folder, vocabulary, max_length=40)


def drawn(model: nn.Module) -> Any:
    """The model with weights, norms, biases and statistics drawn: zeros and ones would hide a fault."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            draw(tensor, name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")))
    return model


def draw(tensor: Tensor, is_scale: bool) -> None:
    """Scales around 1; kernels by their fan-in, so that the signal neither dies nor explodes on its way."""
    if is_scale:
        tensor.uniform_(0.5, 1.5)
    else:
        tensor.normal_(std=tensor[0].numel() ** -0.5 if tensor.ndim == 4 else 0.2)
