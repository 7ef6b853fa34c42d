"""Workloads with a decoder: generation through `generate` (W3, W6) and training (W4-gpt2)."""

from collections.abc import Callable
from typing import Any

import torch
from limits import Work, count_operations
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from workload import Workload

from plait import PlaitForCausalLM, PlaitForConditionalGeneration


def read_twice(peer: nn.Module, folder: str) -> tuple[PlaitForCausalLM, GPT2LMHeadModel]:
    """The same weights in plait and in transformers, each read from one saved folder."""
    peer.save_pretrained(folder)
    return PlaitForCausalLM.from_pretrained(folder), GPT2LMHeadModel.from_pretrained(folder)


def w3(folder: str, config: GPT2Config, tokens: int, prepack: bool = False) -> Workload:
    """Greedy decoding of one row; both sides must write the same tokens."""
    ours, peer = read_twice(GPT2LMHeadModel(config), folder)
    packed = ours.prepack_weights() if prepack else 0
    ids = torch.randint(0, config.vocab_size, (1, 16), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "do_sample": False}
    for model in (ours, peer):
        model.generation_config.eos_token_id = None  # all tokens are written
        model.generation_config.pad_token_id = 0

    def write(model: Any) -> Tensor:
        return model.generate(ids, **options)[:, 16:]

    size = sum(parameter.numel() for parameter in peer.parameters()) / 1e6
    title = f"W3 GPT-2 of {size:.1f} M parameters, {tokens} tokens, batch 1, {packed} prepacked layers"
    with torch.inference_mode():
        prefill = count_operations(lambda: peer(ids, logits_to_keep=1))
    work = Work(prefill, (tokens - 1) * count_step_bytes(ours))
    return Workload(title, lambda: write(ours), lambda: write(peer), lambda: write(peer), exact=True, work=work)


def count_step_bytes(model: Any) -> int:
    """The bytes of the decoder's weights that one decode step reads: all but the rows of embeddings that it does not
    look up."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables -= {id(model.lm_head.weight)}
    decoder = (*model.get_decoder().parameters(), *model.lm_head.parameters())
    read = {id(weight): weight for weight in decoder if id(weight) not in tables}
    return sum(weight.numel() * weight.element_size() for weight in read.values())


def w6(folder: str, prepack: bool = False) -> Workload:
    """Captioning: ViT-B/16 to GPT-2 of 124 M with cross-attention, batch 4, 20 tokens."""
    torch.manual_seed(0)
    decoder = GPT2Config(is_decoder=True, add_cross_attention=True)
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder)
    peer = VisionEncoderDecoderModel(config=pair).eval()
    ours = captioner_like(peer)
    packed = ours.prepack_weights() if prepack else 0
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 20, "do_sample": False, "decoder_start_token_id": 1, "pad_token_id": 0}
    for model in (ours, peer):
        model.generation_config.eos_token_id = None

    def write(model: Any) -> Tensor:
        return model.generate(pixel_values=pixels, **options)

    title = f"W6 captioning, ViT-B/16 to GPT-2 124 M, 4 pictures, 20 tokens, {packed} prepacked layers"
    with torch.inference_mode():
        seeing = count_operations(lambda: peer.encoder(pixel_values=pixels))
    work = Work(seeing, 20 * count_step_bytes(ours))
    return Workload(title, lambda: write(ours), lambda: write(peer), lambda: write(peer), exact=True, work=work)


def captioner_like(peer: VisionEncoderDecoderModel) -> PlaitForConditionalGeneration:
    """transformers' captioner in plait, weight by weight: its cross-attention is fused and transposed."""
    vit: Any = ViTModel(peer.config.encoder, add_pooling_layer=False)
    vit.load_state_dict(peer.encoder.state_dict(), strict=False)
    lm = GPT2LMHeadModel(GPT2Config())
    lm.load_state_dict({k: v for k, v in peer.decoder.state_dict().items() if "cross" not in k}, strict=False)
    ours = PlaitForConditionalGeneration.compose(image=vit, decoder=lm, verbose=False)
    with torch.no_grad():
        connector: Any = ours.model.connectors["image"]
        connector.proj.weight.copy_(torch.eye(768))
        connector.proj.bias.zero_()
        ours.model.fusion.types["image"].tokens.zero_()
        for layer, theirs in zip(ours.model.decoder.transformer.layers, peer.decoder.transformer.h, strict=True):
            copy_cross_attention(layer, theirs)
    return ours.eval()


def copy_cross_attention(layer: Any, theirs: Any) -> None:
    attention, source = layer.cross_attn, theirs.crossattention
    keys, values = source.c_attn.weight.T.chunk(2)
    key_bias, value_bias = source.c_attn.bias.chunk(2)
    pairs = {
        attention.q_proj: (source.q_attn.weight.T, source.q_attn.bias),
        attention.k_proj: (keys, key_bias),
        attention.v_proj: (values, value_bias),
        attention.o_proj: (source.c_proj.weight.T, source.c_proj.bias),
        layer.cross_attn_norm: (theirs.ln_cross_attn.weight, theirs.ln_cross_attn.bias),
    }
    for module, (weight, bias) in pairs.items():
        module.weight.copy_(weight)
        module.bias.copy_(bias)


def w4_gpt2(folder: str, choose: bool = True) -> Workload:
    """GPT-2 124 M forward and backward over 512 tokens: the loss in chunks against the whole of the logits, and linear
    layers with the kernels that PlaitTrainer would choose."""
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ours, peer = read_twice(GPT2LMHeadModel(config), folder)
    ours.train()
    peer.train()
    ids = torch.randint(0, config.vocab_size, (1, 512), generator=torch.Generator().manual_seed(0))

    def step(model: Any) -> Tensor:
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return next(p.grad for p in model.parameters() if p.grad is not None and p.ndim == 2)

    work = Work(count_operations(lambda: step(ours)))
    chosen = ours.choose_products() if choose else 0
    memory = [step_memory(lambda model=model: step(model)) for model in (ours, peer)]
    shown = f"{memory[0]:.0f} MiB beside what it leaves, the peer's {memory[1]:.0f}: {memory[0] / memory[1]:.2f}"
    title = f"W4-gpt2 forward + backward, 512 tokens, {chosen} layers with chosen products; step memory {shown}"
    return Workload(title, lambda: step(ours), lambda: step(peer), lambda: step(peer), 1e-4, work=work)


def step_memory(step: Callable[[], Tensor]) -> float:
    """The most memory in MiB that a step holds at once beyond what it holds when it ends, as the profiler counts it."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held, most = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return (most - held) / 2**20


WORKLOADS: dict[str, Callable[[str], Workload]] = {
    "W3": lambda folder: w3(folder, GPT2Config(), 32),
    "W3-prepacked": lambda folder: w3(folder, GPT2Config(), 32, prepack=True),
    "W3-tiny": lambda folder: w3(folder, GPT2Config(n_embd=64, n_layer=4, n_head=4, vocab_size=1000), 128),
    "W4-gpt2": w4_gpt2,
    "W4-gpt2-plain": lambda folder: w4_gpt2(folder, choose=False),
    "W6": w6,
    "W6-prepacked": lambda folder: w6(folder, prepack=True),
}
