"""Every fusion that cross-attends returns its weights, from every class that is built on a fusion."""

from typing import Any

import pytest
import torch

from plait import PlaitConfig
from plait.modeling.core.attention import PlaitCrossAttention
from plait.modeling.fusion.registry import FUSIONS

from ..zoo import CLASSES, DECODER, FUSION, TOKENS, fused, inputs_of

GENERATION = "PlaitForConditionalGeneration"
BUILT_ON_FUSIONS = ("PlaitModel", "PlaitForClassification", "PlaitForPreTraining", GENERATION)
READING_TEXT = ("PlaitForMaskedLM", "PlaitForQuestionAnswering")
KEEPING_TEXT = [name for name, fusion in FUSIONS.items() if fusion.keeps_tokens]
CASES = [(name, fusion) for name in BUILT_ON_FUSIONS for fusion in FUSIONS]
CASES += [(name, fusion) for name in READING_TEXT for fusion in KEEPING_TEXT]


def build(class_name: str, strategy: str) -> Any:
    parts = fused(strategy, query="text")
    if class_name == GENERATION:
        decoder = {**DECODER, "cross_attention": True, "context_size": FUSION["hidden_size"]}
        parts |= {"decoder_config": decoder, **TOKENS}
    torch.manual_seed(0)
    return CLASSES[class_name](PlaitConfig(**parts, num_labels=3, initializer_range=0.2)).eval()


@pytest.mark.parametrize(("class_name", "strategy"), CASES)
def test_a_fusion_returns_its_cross_attentions(class_name: str, strategy: str) -> None:
    model = build(class_name, strategy)
    fusion = model.base_model.fusion
    computed: list[torch.Tensor] = []
    for module in fusion.modules():
        if isinstance(module, PlaitCrossAttention):
            module.register_forward_hook(lambda module, inputs, output: computed.append(output[1]))
    inputs = inputs_of("early")
    field = "cross_attentions"
    if class_name == GENERATION:
        inputs["decoder_input_ids"] = torch.randint(3, 39, (3, 5))
        field = "encoder_cross_attentions"
    outputs = model(**inputs, output_attentions=True)
    returned = getattr(outputs, field)
    if class_name == GENERATION:
        assert [weights.shape[2] for weights in outputs.cross_attentions] == [5, 5]
    if not computed:
        assert returned is None
        return
    assert len(returned) == fusion.config.num_hidden_layers
    for layer, weights in enumerate(returned):
        own = computed[layer * len(computed) // len(returned) : (layer + 1) * len(computed) // len(returned)]
        assert weights.ndim == 4 and weights.shape[:2] == own[0].shape[:2]
        assert weights.shape[2] == sum(each.shape[2] for each in own)
        torch.testing.assert_close(weights.amax(-1), torch.cat([each.amax(-1) for each in own], dim=2))
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert getattr(model(**inputs), field) is None
