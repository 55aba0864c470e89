"""The text encoder (a plain BERT) and the fusion encoder (BERT layers that also look at image
tokens), from transformers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BlipTextConfig
from transformers.models.blip.modeling_blip_text import (
    BlipTextEncoder,
    BlipTextOnlyMLMHead,
)

from medxvl.layers import unpadded


def build_text_encoder(preset, vocabulary: int) -> BertModel:
    """Plain BERT without pooler; CXR-BERT's weights fit the published size."""
    encoder = BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=preset.text_width,
            num_hidden_layers=preset.text_layers,
            num_attention_heads=preset.text_heads,
            intermediate_size=preset.text_hidden,
            max_position_embeddings=preset.max_tokens,
            hidden_dropout_prob=preset.dropout,
            attention_probs_dropout_prob=preset.dropout,
            bos_token_id=None,
            eos_token_id=None,
        ),
        add_pooling_layer=False,
    )
    if preset.pooling_start:
        start_as_pooling(encoder)
    return encoder


def start_as_pooling(module: nn.Module, gain: float = 1.0) -> None:
    """Make attention begin as a mean over the tokens: queries and keys near zero, values and
    outputs rotations.

    A BERT from random weights passes hardly anything of the words on to `[CLS]`, and unlearning
    that takes longer than the small presets train; the published models start from CXR-BERT
    instead.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if name.endswith(("self.value", "attention.output.dense")):
            nn.init.orthogonal_(layer.weight, gain)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding) and "word" in name:
            nn.init.normal_(layer.weight, std=0.1)


def start_as_similarity(bert: BertModel) -> None:
    """Make the first layer's attention begin as a look-up: a token attends to the tokens of segment
    0 that resemble it.

    For a joint sequence whose image tokens (segment 0) lie near the words that describe them.
    Queries and keys share one rotation, so that their product is the likeness of two tokens; the
    segments' embeddings point opposite ways, and a bias of the queries prefers segment 0. Where
    nothing resembles a word, `[CLS]` and `[SEP]` are as good. The published models start from BERT
    instead, and do not need it.
    """
    attention, segments = (
        bert.encoder.layer[0].attention.self,
        bert.embeddings.token_type_embeddings.weight,
    )
    nn.init.orthogonal_(attention.query.weight)
    with torch.no_grad():
        way = F.normalize(torch.randn(segments.shape[1]), dim=0)
        segments[0], segments[1] = 0.3 * way, -0.3 * way
        attention.key.weight.copy_(attention.query.weight)
        attention.query.bias.copy_(6 * attention.query.weight @ way)


class FusionEncoder(nn.Module):
    """Layers of self-attention, cross-attention to the other modality, and feed-forward; plus an
    MLM head over words.

    It takes encoders' outputs, not token ids: no embedding layer runs here. `image_queries` turns
    it round: image tokens that look at the text, without an MLM head (early X-VL has both
    directions).
    """

    def __init__(self, preset, vocabulary: int, image_queries: bool = False):
        super().__init__()
        widths = (preset.text_width, preset.vision_width)
        width, memory = widths[::-1] if image_queries else widths
        self.packed = bool(preset.packed)
        config = BlipTextConfig(
            vocab_size=vocabulary, hidden_size=width, encoder_hidden_size=memory,
            intermediate_size=preset.fusion_hidden, num_hidden_layers=preset.fusion_layers,
            num_attention_heads=preset.vision_heads if image_queries else preset.text_heads,
            hidden_dropout_prob=preset.dropout, attention_probs_dropout_prob=preset.dropout,
            # this is what gives a layer cross-attention
            bos_token_id=None, eos_token_id=None, is_decoder=True,
        )  # fmt: skip
        self.encoder = BlipTextEncoder(config)
        self.mlm_head = None if image_queries else BlipTextOnlyMLMHead(config)
        if self.mlm_head is not None:  # transformers holds this bias twice and uses the decoder's
            self.mlm_head.predictions.bias.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # BERT's own initialisation
                nn.init.normal_(module.weight, std=preset.initial_range)
                nn.init.zeros_(module.bias)
        if preset.pooling_start:
            start_as_pooling(self.encoder)
            for (
                name,
                module,
            ) in (
                self.encoder.named_modules()
            ):  # but what words look at in the image differs from the start:
                if name.endswith(
                    ("crossattention.self.query", "crossattention.self.key")
                ):  # near zero, both learn slowly
                    nn.init.orthogonal_(module.weight)

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> Tensor:
        """States (B, L, d) with their mask (B, L) and what they look at (B, P, e) -> fused states
        (B, L, d).
        """
        if (
            self.packed or memory_mask is not None
        ):  # transformers' layer drops the mask of what it looks at
            layout = unpadded.from_mask(mask)
            pairs = torch.arange(len(x), device=x.device)
            return layout.pad(
                unpadded.run(self.encoder.layer, layout.pack(x), mask, memory, pairs, memory_mask)
            )
        blocked = torch.finfo(x.dtype).min * (1 - mask[:, None, None, :].to(x.dtype))
        return self.encoder(
            x, attention_mask=blocked, encoder_hidden_states=memory
        ).last_hidden_state

    def tokens(self, x, mask, memory, keep, memory_of=(None,), memory_mask=None) -> Tensor:
        """Fused states of the tokens that `keep` (B, L) marks, row by row (K, d).

        memory_of says what the rows of x look at, group by group: None for memory itself, or an
        index into it.
        """
        if self.packed or memory_mask is not None:
            own = torch.arange(len(memory), device=x.device)
            row = torch.cat([own if part is None else part for part in memory_of])
            return unpadded.run(
                self.encoder.layer,
                unpadded.from_mask(mask).pack(x),
                mask,
                memory,
                row,
                memory_mask,
                keep,
            )
        return self(x, mask, regroup(memory, memory_of))[keep]

    def every_pair(self, x, mask, memory, memory_mask=None) -> Tensor:
        """Fused first tokens (I, B, d) of every one of x (B, L, d) with every one of memory (I, P,
        e).

        What does not depend on the pair is computed once: the first layer's self-attention a row of
        x, keys and values one of memory.
        """
        layers, own = self.encoder.layer, unpadded.from_mask(mask)
        x = own.pack(x)
        x = unpadded.attend(layers[0].attention, x, own, x, own).repeat(len(memory), 1)
        seen = torch.arange(len(memory), device=x.device).repeat_interleave(len(mask))
        mask = mask.repeat(len(memory), 1)
        first = unpadded.first_of(mask)
        fused = unpadded.run(layers, x, mask, memory, seen, memory_mask, first, begun=True)
        return fused.unflatten(0, (len(memory), -1))


def regroup(x: Tensor, groups) -> Tensor:
    """Rows of x, group by group: all of them for None, else those of an index."""
    return torch.cat([x if part is None else x[part] for part in groups])
