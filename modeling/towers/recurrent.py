"""The recurrent audio tower: frames of a spectrogram to tokens, by an LSTM or GRU."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init
from transformers.activations import ACT2FN

from ...configuration import PlaitRNNConfig
from ..core.layers import SelfInitializing
from ..core.pooling import mean_token
from ..core.precision import cast_to_module
from ..outputs import LayerChoice, TowerOutput, select_layers


class LSTM(nn.LSTM, SelfInitializing):
    """torch's LSTM, initialized by its own `init_weights`."""

    def init_weights(self, std: float) -> None:
        """Draws all weights as torch does: `std` has no effect."""
        init_uniform(self)


class GRU(nn.GRU, SelfInitializing):
    """torch's GRU, initialized by its own `init_weights`."""

    def init_weights(self, std: float) -> None:
        """Draws all weights as torch does: `std` has no effect."""
        init_uniform(self)


def init_uniform(rnn: nn.RNNBase) -> None:
    """Draws every weight uniformly from [-1 / sqrt(width), 1 / sqrt(width)], as torch does."""
    for parameter in rnn.parameters():
        init.uniform_(parameter, -(rnn.hidden_size**-0.5), rnn.hidden_size**-0.5)


RNNS: dict[str, type[LSTM] | type[GRU]] = {"lstm": LSTM, "gru": GRU}


class RecurrentPooler(nn.Module):
    """Pools a clip to one vector: the mean over its frames or the final state, then (if the config has them) a dense
    layer, an activation and normalization to unit length."""

    def __init__(self, config: PlaitRNNConfig) -> None:
        super().__init__()
        self.final, self.normalize = config.pooling == "final", config.pooler_normalize
        size = config.pooler_size
        self.dense = nn.Linear(config.hidden_size, size) if size else nn.Identity()
        self.act = ACT2FN[config.pooler_act] if config.pooler_act else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor, state: Tensor) -> Tensor:
        """Returns (clips, pooled width); x: (clips, frames, width), mask: (clips, frames), state: (clips, width)."""
        pooled = self.act(self.dense(state if self.final else mean_token(x, mask)))
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


def select_last_state(state: Tensor | tuple[Tensor, Tensor], bidirectional: bool) -> Tensor:
    """Returns the final state of the last layer, (clips, width): of both directions, concatenated, if bidirectional."""
    hidden = state[0] if isinstance(state, tuple) else state
    return torch.cat((hidden[-2], hidden[-1]), dim=-1) if bidirectional else hidden[-1]


class RecurrentTower(nn.Module):
    """The recurrent audio tower: mel frames to tokens by an LSTM or GRU, in both directions if `config.bidirectional`.
    A clip's padding is not read. It has no attentions; hidden_states are the normed frames and the tokens."""

    item_dimensions = 2

    def __init__(self, config: PlaitRNNConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.num_mel_bins, eps=config.norm_eps) if config.input_norm else nn.Identity()
        layers = config.num_hidden_layers
        self.rnn = RNNS[config.rnn_type](
            config.num_mel_bins,
            config.rnn_size,
            layers,
            batch_first=True,
            bidirectional=config.bidirectional,
            dropout=config.hidden_dropout_prob if layers > 1 else 0.0,
        )
        self.pooler = RecurrentPooler(config) if config.pooling != "none" else None

    def forward(
        self,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        clip_mask: Tensor | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """Encodes audio clips; input_features: (clips, mel bins, frames); clip_mask: (clips, frames), 0 in the padding.

        Raises ValueError for another shape, or for `input_values` in place of `input_features`.
        """
        frames = self.prepare_frames(input_features)
        lengths = torch.full((len(frames),), frames.shape[1]) if clip_mask is None else clip_mask.long().sum(1).cpu()
        packed = pack_padded_sequence(frames, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        output, state = self.rnn(packed)
        tokens, _ = pad_packed_sequence(output, batch_first=True, total_length=frames.shape[1])
        mask = torch.arange(frames.shape[1])[None] < lengths[:, None]
        mask = mask.to(tokens.device)
        pooled = (
            None
            if self.pooler is None
            else self.pooler(tokens, mask, select_last_state(state, self.config.bidirectional))
        )
        wanted = select_layers(output_hidden_states, 2)
        states = tuple(state if number in wanted else None for number, state in enumerate((frames, tokens)))
        return TowerOutput(tokens, mask.long(), pooled, hidden_states=states if wanted else None)

    def prepare_frames(self, input_features: Tensor | None) -> Tensor:
        """Returns the normed input of the RNN, (clips, frames, mel bins); raises ValueError for a wrong shape."""
        bins = self.config.num_mel_bins
        if input_features is None or input_features.ndim != 3 or input_features.shape[1] != bins:
            shape = "input_values" if input_features is None else f"shape {tuple(input_features.shape)}"
            raise ValueError(f"a recurrent tower reads input_features (clips, {bins}, frames), not {shape}")
        if not input_features.shape[2]:
            raise ValueError("an audio clip has 0 frames: pass at least one, or mark it as absent in audio_present")
        return self.norm(cast_to_module(input_features.transpose(1, 2), self.rnn))

    def get_input_embeddings(self) -> nn.Module:
        """Returns the RNN, the first layer with weights of the input."""
        return self.rnn

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the RNN."""
        self.rnn = value
