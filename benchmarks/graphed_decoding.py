"""Greedy decoding over a static cache, each step a replay of one CUDA graph."""

from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

WARM_UP_STEPS = 3  # before a capture, as torch's documentation of CUDA graphs asks for


class GraphedDecoder:
    """Writes texts greedily. On a GPU the step of one token is captured once and replayed: its kernels are launched
    together, without Python between them. On a CPU the step is called.

    Args:
        model: with `forward(input_ids, position_ids, past_key_values)`; in eval mode, on the device to use.
        rows: of a batch; all prompts of a call have the same length.
        length: of the longest text, prompt included.
    """

    def __init__(self, model: Any, rows: int, length: int) -> None:
        self.model, self.length = model, length
        self.cache = StaticCache(config=model.config.get_text_config(), max_cache_len=length)
        self.tokens = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
        self.positions = torch.zeros_like(self.tokens)
        self.graph: Any = None

    @torch.inference_mode()
    def write(self, ids: Tensor, count: int) -> Tensor:
        """Returns the prompt, (rows, length), and `count` new tokens behind it.

        Raises ValueError if they are longer than the cache.
        """
        if ids.shape[1] + count > self.length:
            raise ValueError(f"{ids.shape[1]} + {count} tokens are more than the {self.length} of the cache")
        if self.graph is None and ids.is_cuda:
            self.capture(ids)
        self.read(ids)
        found = [ids, self.tokens.clone()]
        for _ in range(count - 1):
            self.step() if self.graph is None else self.graph.replay()
            found.append(self.tokens.clone())
        return torch.cat(found, dim=1)

    def read(self, ids: Tensor) -> None:
        """Fills the cache with a prompt, and predicts the first token."""
        self.cache.reset()
        logits = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        self.tokens.copy_(logits[:, -1:].argmax(-1))
        self.positions.fill_(ids.shape[1])

    def step(self) -> None:
        """Replaces the tokens by those that follow them."""
        inputs = {"input_ids": self.tokens, "position_ids": self.positions, "past_key_values": self.cache}
        logits = self.model(**inputs, use_cache=True).logits
        self.tokens.copy_(logits[:, -1:].argmax(-1))
        self.positions.add_(1)

    def capture(self, ids: Tensor) -> None:
        """Captures the step behind a prompt; the cache's tokens are then those of the warm-up."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.read(ids)
            for _ in range(WARM_UP_STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.read(ids)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()
