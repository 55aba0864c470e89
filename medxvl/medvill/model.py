"""MedViLL (arXiv 2105.11333): one BERT over image tokens and report, pre-trained with masked words
and matching.

Shapes: N pairs, k image tokens that are kept, T tokens of the text part, L = k + 2 + T, d width of
BERT, F image features.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import (
    BertPredictionHeadTransform,
)

from medxvl.layers import fusion, unpadded
from medxvl.medvill import release
from medxvl.medvill.image_encoder import Trunk
from medxvl.training import distributed

HEAD_EPS = 1e-5  # of the LayerNorm in the head for masked words; BERT's own is 1e-12


@dataclass
class Joint:
    """A batch of joint sequences `[CLS] v_1 .. v_k [SEP] text part`, without the image features
    themselves.
    """

    ids: Tensor  # (N, L) the k ids at image tokens are placeholders
    position_ids: Tensor  # (N, L)
    segment_ids: Tensor  # (N, L) 0 image part, 1 text part
    mask: Tensor  # (N, L, L) bool, True = may look at; of masks.attention
    grid: Tensor | None  # (N, k) grid positions of the image tokens, None: all

    def to(self, device):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: v if v is None else v.to(device) for k, v in values.items()})


@dataclass
class Batch:
    """One step's input."""

    images: Tensor  # (N, C, s, s)
    joint: Joint
    labels: Tensor  # (N, T) ids to predict in the text part, -100 elsewhere
    matched: Tensor  # (N,) 1 where report and image are of one study

    def to(self, device):
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


class MedViLL(nn.Module):
    """The model with both pre-training heads. `forward(batch)` returns every loss term by name;
    `total` is minimised.

    `layer_norm_eps` is 1e-12 in the release's pre-training and 1e-5 in its fine-tuning for answers
    and generation. `tied`: the matrix of the head for masked words is the word embedding, as
    everywhere but in a checkpoint that says otherwise.
    """

    # What medxvl.weights needs to know of the class.
    SAVED_AS, FAMILY, NOTEBOOK = "medxvl MedViLL", "medvill", "11"
    from_released = staticmethod(release.from_released)
    sized = staticmethod(release.sized)

    def __init__(self, preset, vocabulary: int, layer_norm_eps: float = 1e-12, tied: bool = True):
        super().__init__()
        self.preset = preset
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=preset.medvill_width,
            num_hidden_layers=preset.medvill_layers,
            num_attention_heads=preset.medvill_heads,
            intermediate_size=preset.medvill_hidden,
            max_position_embeddings=preset.medvill_max_positions,
            hidden_dropout_prob=preset.medvill_dropout,
            attention_probs_dropout_prob=preset.medvill_dropout,
            layer_norm_eps=layer_norm_eps,
            initializer_range=preset.initial_range,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
        self.trunk = Trunk(preset)
        self.image_proj = nn.Linear(self.trunk.features, preset.medvill_width)
        self.bert = BertModel(config)
        self.mlm_transform = BertPredictionHeadTransform(config)
        self.mlm_transform.LayerNorm.eps = HEAD_EPS
        self.mlm_bias = nn.Parameter(torch.zeros(vocabulary))
        if not tied:
            self.mlm_matrix = nn.Parameter(
                self.bert.embeddings.word_embeddings.weight.detach().clone()
            )
        self.itm_head = nn.Linear(preset.medvill_width, 2)
        for layer in (self.image_proj, self.mlm_transform.dense, self.itm_head):
            nn.init.normal_(layer.weight, std=preset.initial_range)
            nn.init.zeros_(layer.bias)
        if preset.pooling_start:
            fusion.start_as_pooling(self.bert)
        if preset.medvill_similarity_start:
            fusion.start_as_similarity(self.bert)

    def embed(self, features: Tensor, joint: Joint) -> Tensor:
        """Words and projected image features in one row, (N, L, d), before positions, segments,
        LayerNorm and dropout.

        `features` (N, P, F) are the trunk's; positions and segments share one table between image
        and text.
        """
        if joint.grid is not None:
            features = features.gather(1, joint.grid[:, :, None].expand(-1, -1, features.shape[-1]))
        words = self.bert.embeddings.word_embeddings(joint.ids)
        return torch.cat(
            [words[:, :1], self.image_proj(features), words[:, 1 + features.shape[1] :]], dim=1
        )

    def encode(self, features: Tensor, joint: Joint, at: Tensor | None = None) -> Tensor:
        """Hidden states of the last layer (N, L, d) from the trunk's features (N, P, F).

        `at` (N, K): the places whose states are wanted, (N, K, d); the last layer computes no
        other.
        """
        states = self.bert.embeddings(
            inputs_embeds=self.embed(features, joint),
            position_ids=joint.position_ids,
            token_type_ids=joint.segment_ids,
        )
        if at is None:
            return unpadded.joint(self.bert.encoder.layer, states, joint.mask)
        keep = torch.zeros_like(joint.ids, dtype=torch.bool).scatter(1, at, True)
        states = unpadded.joint(self.bert.encoder.layer, states, joint.mask, keep)
        return states.gather(1, at[:, :, None].expand(-1, -1, states.shape[2]))

    def attention_maps(self, features: Tensor, joint: Joint) -> list[Tensor]:
        """Attention probabilities of every layer, (N, heads, L, L) each: for figures, it is
        slow.
        """
        blocked = torch.finfo(features.dtype).min * (~joint.mask[:, None]).to(features.dtype)
        self.bert.set_attn_implementation("eager")
        try:
            return list(
                self.bert(
                    inputs_embeds=self.embed(features, joint),
                    attention_mask=blocked,
                    position_ids=joint.position_ids,
                    token_type_ids=joint.segment_ids,
                    output_attentions=True,
                ).attentions
            )
        finally:
            self.bert.set_attn_implementation("sdpa")

    def pool(self, states: Tensor, n_image: int) -> Tensor:
        """The vector of a pair (N, d): pooled `[CLS]`; with the mask `noncross` the product of both
        parts' `[CLS]` states.
        """
        if self.preset.medvill_mask == "noncross":
            return states[:, 0] * states[:, n_image]
        return self.bert.pooler(states)

    def mlm_logits(self, states: Tensor) -> Tensor:
        """(..., vocabulary) from hidden states (..., d)."""
        matrix = getattr(self, "mlm_matrix", self.bert.embeddings.word_embeddings.weight)
        return F.linear(self.mlm_transform(states), matrix, self.mlm_bias)

    def forward(self, b: Batch, words: bool = True) -> dict[str, Tensor]:
        """`mlm`, `itm` and their sum `total`; without `words` `itm` alone, as `total`."""
        labels, n_image = b.labels, b.joint.ids.shape[1] - b.labels.shape[1]
        # each part's `[CLS]`
        first = [0, n_image] if self.preset.medvill_mask == "noncross" else [0]
        at = torch.tensor(first, device=labels.device).expand(len(labels), -1)
        if words:
            # a foreign report says nothing of this image; the release learns it
            if not self.preset.medvill_mlm_mismatched:
                labels = labels.masked_fill(b.matched[:, None] == 0, -100)
            masked = labels != -100
            # a row's masked words, then others
            most = int(masked.sum(dim=1).max())
            place = (~masked).int().argsort(dim=1, stable=True)[:, :most]
            at = torch.cat([at, n_image + place], dim=1)
        states = self.encode(self.trunk(b.images), b.joint, at)

        terms = {}
        if words:
            chosen, targets = masked.gather(1, place), labels.gather(1, place)
            logits = self.mlm_logits(states[:, len(first) :][chosen])
            loss = F.cross_entropy(logits, targets[chosen], reduction="sum") / max(len(logits), 1)
            # processes mask unequal numbers of words
            terms["mlm"] = loss * distributed.mean_weight(chosen.sum(), loss)
        terms["itm"] = F.cross_entropy(self.itm_head(self.pool(states, 1)), b.matched)
        return terms | {"total": terms["mlm"] + terms["itm"] if words else terms["itm"]}
