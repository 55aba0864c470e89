"""The text encoder (a plain BERT) and the fusion encoder (BERT layers that also look at image tokens), from transformers."""

import torch
from torch import Tensor, nn

from . import compat  # noqa: F401  (before transformers)

from transformers import BertConfig, BertModel, BlipTextConfig  # noqa: E402  isort: skip
from transformers.models.blip.modeling_blip_text import BlipTextEncoder, BlipTextOnlyMLMHead  # noqa: E402  isort: skip


def build_text_encoder(preset, vocabulary: int) -> BertModel:
    """Plain BERT without pooler; CXR-BERT's weights fit the published size."""
    encoder = BertModel(
        BertConfig(
            vocab_size=vocabulary, hidden_size=preset.text_width, num_hidden_layers=preset.text_layers,
            num_attention_heads=preset.text_heads, intermediate_size=preset.text_hidden,
            max_position_embeddings=preset.max_tokens, hidden_dropout_prob=preset.dropout,
            attention_probs_dropout_prob=preset.dropout, bos_token_id=None, eos_token_id=None,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    if preset.pooling_start:
        start_as_pooling(encoder)
    return encoder


def start_as_pooling(module: nn.Module, gain: float = 1.0) -> None:
    """Make attention begin as a mean over the tokens: queries and keys near zero, values and outputs rotations.

    A BERT from random weights passes hardly anything of the words on to `[CLS]`, and unlearning that takes longer than the
    small presets train; the published models start from CXR-BERT instead.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if name.endswith(("self.value", "attention.output.dense")):
            nn.init.orthogonal_(layer.weight, gain)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding) and "word" in name:
            nn.init.normal_(layer.weight, std=0.1)


class FusionEncoder(nn.Module):
    """Layers of self-attention over text, cross-attention from text to image tokens, and feed-forward; plus an MLM head.

    It takes the text encoder's output, not token ids: no embedding layer runs here.
    """

    def __init__(self, preset, vocabulary: int):
        super().__init__()
        config = BlipTextConfig(
            vocab_size=vocabulary, hidden_size=preset.text_width, encoder_hidden_size=preset.vision_width,
            intermediate_size=preset.fusion_hidden, num_hidden_layers=preset.fusion_layers,
            num_attention_heads=preset.text_heads, hidden_dropout_prob=preset.dropout,
            attention_probs_dropout_prob=preset.dropout, bos_token_id=None, eos_token_id=None,
            is_decoder=True,  # this is what gives a layer cross-attention
        )  # fmt: skip
        self.encoder = BlipTextEncoder(config)
        self.mlm_head = BlipTextOnlyMLMHead(config)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # BERT's own initialisation
                nn.init.normal_(module.weight, std=preset.initial_range)
                nn.init.zeros_(module.bias)
        if preset.pooling_start:
            start_as_pooling(self.encoder)

    def forward(self, text: Tensor, text_mask: Tensor, image: Tensor) -> Tensor:
        """Text states (B, L, d), their mask (B, L) and image tokens (B, P, e) -> fused states (B, L, d)."""
        blocked = torch.finfo(text.dtype).min * (1 - text_mask[:, None, None, :].to(text.dtype))
        return self.encoder(text, attention_mask=blocked, encoder_hidden_states=image).last_hidden_state
