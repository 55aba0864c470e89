"""Medical X-VL's encoder-decoder (arXiv 2208.05140, section 5): error correction and answers;
without the encoder, report generation.

The reader is a text encoder whose upper layers look at the image; the decoder's layers look at what
the reader makes of the text, or at the image itself where there is no text to read. Shapes: N
texts, T tokens `[CLS] w_1 .. w_n [SEP]`, M tokens that the decoder looks at, d their width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl.data.text import SPECIAL
from medxvl.layers import beam_search, fusion, kv_cache, unpadded
from medxvl.training.finetune import copied
from medxvl.xvl.finetune import Tuned
from medxvl.xvl.model import XVL

FIRST = SPECIAL.index("[CLS]")  # which every text begins with
# At the start of copying: length of a word's vector, places beside words, sharpness of the look-up,
# its result beside the rest
LENGTH, PLACE, SHARPNESS, WEIGHT = 1.0, 2.0, 2.5, 3.0


class Reader(nn.Module):
    """Text layers, then layers that also look at the image (released: layers 8 to 11 of 12)."""

    def __init__(self, preset, vocabulary: int):
        super().__init__()
        text = fusion.build_text_encoder(
            replace(preset, text_layers=preset.writer_text_layers), vocabulary
        )
        self.embeddings, self.layers = text.embeddings, text.encoder.layer
        self.cross = fusion.FusionEncoder(
            replace(preset, fusion_hidden=preset.text_hidden), vocabulary
        ).encoder.layer

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """States (N, T, d) of texts `ids`, `mask` (N, T) beside image tokens (N, P, e)."""
        layout, pairs = unpadded.from_mask(mask), torch.arange(len(ids), device=ids.device)
        states = unpadded.run(self.layers, unpadded.embed(self.embeddings, ids, mask, layout), mask)
        return layout.pad(unpadded.run(self.cross, states, mask, image, pairs))


@dataclass
class Memory:
    """What a decoder looks at: each layer's keys and values, (n, heads, M, d / heads) both, and
    which are tokens (n, 1, 1, M).
    """

    keys: list[Tensor]
    values: list[Tensor]
    seen: Tensor | None

    def select(self, rows: Tensor) -> "Memory":
        return Memory(
            [k[rows] for k in self.keys],
            [v[rows] for v in self.values],
            None if self.seen is None else self.seen[rows],
        )


@dataclass
class State:
    """Texts being written: what is kept of their words, and what each looks at."""

    kept: kv_cache.Kept
    memory: Memory
    of: Tensor  # (N,) which of the memories that `start` was given

    def select(self, rows: Tensor) -> "State":
        of = self.of[rows]  # beams of one text look at the same: what they see need not be moved
        memory = self.memory if torch.equal(of, self.of) else self.memory.select(rows)
        return State(self.kept.select(rows), memory, of)


class Decoder(nn.Module):
    """Layers as the fusion encoder's over words that look back, with the word embeddings as the
    head's weights (released).

    `copies` (ours, for small presets that start from no trained decoder): the words of the text
    that is read stand beside what the reader makes of them, and a place is numbered by the word to
    come, so that a look-up of equal places copies.
    """

    def __init__(self, preset, vocabulary: int, width: int, copies: bool = False):
        super().__init__()
        self.copies = copies
        looks = replace(preset, vision_width=width, fusion_layers=preset.writer_layers)
        fused = fusion.FusionEncoder(looks, vocabulary)
        self.layers, self.transform = fused.encoder.layer, fused.mlm_head.predictions.transform
        text = replace(preset, text_layers=1, max_tokens=preset.writer_positions)
        self.embeddings = fusion.build_text_encoder(text, vocabulary).embeddings
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> Memory:
        """Tokens to look at (n, M, d) and which of them are tokens (n, M), all by default."""
        pairs = [kv_cache.keys_values(layer.crossattention, memory) for layer in self.layers]
        return Memory(
            *map(list, zip(*pairs, strict=True)),
            None if mask is None else mask.bool()[:, None, None],
        )

    def embed(self, ids: Tensor, first: int = 0) -> Tensor:
        """(N, T, d) of words `ids` (N, T) at the places first, first + 1, .."""
        at = torch.arange(first, first + ids.shape[1], device=ids.device)
        return self.embeddings(input_ids=ids, position_ids=at.expand_as(ids))

    def logits(self, states: Tensor) -> Tensor:
        return F.linear(self.transform(states), self.embeddings.word_embeddings.weight, self.bias)

    def states(self, ids: Tensor, memory: Memory) -> Tensor:
        """(N, T, d) of whole texts, each place from the words up to it."""
        x = self.embed(ids, int(self.copies))
        for layer, keys, values in zip(self.layers, memory.keys, memory.values, strict=True):
            x = kv_cache.attend(
                layer.attention, x, *kv_cache.keys_values(layer.attention, x), causal=True
            )
            x = layer.feed_forward_chunk(
                kv_cache.attend(layer.crossattention, x, keys, values, memory.seen)
            )
        return x

    def start(self, memory: Memory) -> State:
        nothing, first = (
            kv_cache.Kept.of([(k[:, :, :0], k[:, :, :0]) for k in memory.keys]),
            memory.keys[0],
        )
        return State(nothing, memory, torch.arange(len(first), device=first.device))

    @torch.no_grad()
    def step(self, state: State, words: Tensor | None) -> tuple[Tensor, State]:
        """For medxvl.layers.beam_search: log-probabilities (N, V) of the next word after `words`
        (N,), None at the start.
        """
        device = state.of.device
        ids = torch.full_like(state.of, FIRST) if words is None else words.to(device)
        kept, memory = state.kept.with_room(1), state.memory
        x = self.embed(ids[:, None], kept.places + int(self.copies))
        for n, layer in enumerate(self.layers):
            x = kv_cache.attend(
                layer.attention, x, *kept.beside(n, *kv_cache.keys_values(layer.attention, x))
            )
            x = layer.feed_forward_chunk(
                kv_cache.attend(
                    layer.crossattention, x, memory.keys[n], memory.values[n], memory.seen
                )
            )
        log_p = F.log_softmax(self.logits(x[:, -1]).float(), dim=-1)
        return log_p, State(kv_cache.Kept(kept.store, kept.places + 1), memory, state.of)


class Writer(Tuned):
    """`reads`: the decoder looks at a text that was read beside the image; else at the image
    tokens.
    """

    def __init__(self, preset, vision_encoder: nn.Module, vocabulary: int, reads: bool):
        super().__init__()
        self.preset = preset
        self.hold(vision_encoder, bool(preset.xvl_tune_frozen))
        self.reader = Reader(preset, vocabulary) if reads else None
        width = preset.text_width if reads else preset.vision_width
        self.decoder = Decoder(
            preset, vocabulary, width, copies=reads and bool(preset.writer_copies)
        )

    def remember(self, images: Tensor, given: tuple[Tensor, Tensor] | None = None) -> Memory:
        """What the decoder looks at, for images (n, C, s, s) or their tokens, and the texts `given`
        to read, ids and mask (n, T).
        """
        tokens = self.image_tokens(images)
        if given is None:
            return self.decoder.remember(tokens)
        states = self.reader(*given, tokens)
        return self.decoder.remember(
            states + self.decoder.embed(given[0]) if self.decoder.copies else states, given[1]
        )

    def log_likelihood(self, memory: Memory, ids: Tensor, mask: Tensor) -> Tensor:
        """(N,) sum of the log-probabilities of a text's words, `[SEP]` with them, each given the
        true words before it.

        Texts ids, mask (N, T), as `text.encode` gives them. To score many texts beside one memory:
        `memory.select`.
        """
        real = mask[:, 1:].bool()
        logits = self.decoder.logits(self.decoder.states(ids[:, :-1], memory)[real])
        losses = logits.new_zeros(real.shape, dtype=torch.float32)
        losses[real] = F.cross_entropy(logits.float(), ids[:, 1:][real], reduction="none")
        return -losses.sum(dim=1)

    def forward(
        self, images: Tensor, ids: Tensor, mask: Tensor, *given: Tensor
    ) -> dict[str, Tensor]:
        """Loss of the texts ids, mask (N, T) to be written: summed over words, the mean over texts,
        as released.
        """
        return {
            "total": -self.log_likelihood(self.remember(images, given or None), ids, mask).mean()
        }

    @torch.no_grad()
    def write(self, memory: Memory, rules: beam_search.Rules, pad: int = 0) -> beam_search.Texts:
        """Texts by greedy decoding or, with several beams, beam search."""
        search = beam_search.beam if rules.beams > 1 else beam_search.greedy
        return search(
            self.decoder.step, self.decoder.start(memory), len(memory.keys[0]), rules, pad
        )


def start_from(model: XVL, reads: bool) -> Writer:
    """A writer with the weights of a pre-trained X-VL, as released but where this says ours.

    The reader is its text encoder; the upper layers' cross-attention is that of the fusion encoder
    (ours: released, it is new), and so is the rest of them where the text encoder has no more
    layers (ours, small presets). The decoder's layers, head and word embeddings are the fusion
    encoder's; cross-attention to text is new where images have another width.
    """
    preset, online = model.preset, model.online
    writer = Writer(
        preset, copied(online.vision), online.text.embeddings.word_embeddings.num_embeddings, reads
    )
    decoder, fused, head = (
        writer.decoder,
        online.fusion.encoder.layer,
        online.fusion.mlm_head.predictions,
    )
    if reads:
        layers, lower = online.text.encoder.layer, preset.writer_text_layers
        writer.reader.embeddings.load_state_dict(online.text.embeddings.state_dict())
        for theirs in (fused, layers[lower:]):
            _fill(writer.reader.cross, theirs)
        _fill(writer.reader.layers, layers)
    if decoder.copies:
        start_as_copying(decoder, online.text.embeddings.word_embeddings.weight)
        return writer
    _fill(decoder.layers, fused)
    decoder.transform.load_state_dict(head.transform.state_dict())
    words, positions = (
        decoder.embeddings.word_embeddings.weight,
        decoder.embeddings.position_embeddings.weight,
    )
    with torch.no_grad():
        words.copy_(head.decoder.weight)
        decoder.bias.copy_(head.decoder.bias)
        learned = online.text.embeddings.position_embeddings.weight[: len(positions)]
        positions[: len(learned)] = learned
    return writer


@torch.no_grad()
def start_as_copying(decoder: Decoder, words: Tensor) -> None:
    """Make the decoder begin by writing, at each place, the word that stands there in the text that
    is read.

    In the first layer's attention to the text queries and keys share one rotation, so that their
    product is the likeness of two tokens, which places dominate; values and outputs undo each
    other. All else adds nothing at first. Words are those of the text encoder, all of one length.
    """
    embeddings, look_up = decoder.embeddings, decoder.layers[0].crossattention
    embeddings.word_embeddings.weight.copy_(LENGTH * F.normalize(words, dim=1))
    nn.init.normal_(
        embeddings.position_embeddings.weight, std=LENGTH * PLACE * words.shape[1] ** -0.5
    )
    for layer in decoder.layers:
        for block in (layer.attention, layer.crossattention, layer):
            nn.init.zeros_(block.output.dense.weight)
    nn.init.orthogonal_(look_up.self.query.weight, SHARPNESS)
    look_up.self.key.weight.copy_(look_up.self.query.weight)
    nn.init.orthogonal_(look_up.self.value.weight, WEIGHT)
    look_up.output.dense.weight.copy_(look_up.self.value.weight.t())
    decoder.transform.dense.weight.copy_(
        0.3 * torch.eye(len(look_up.output.dense.bias))
    )  # GELU is nearly straight there


def _fill(layers, source) -> None:
    """Put the weights of layers, one by one, into those at the same place, as far as they have the
    same name and shape.
    """
    for ours, theirs in zip(layers, source, strict=False):
        wanted = ours.state_dict()
        found = {
            k: v
            for k, v in theirs.state_dict().items()
            if k in wanted and v.shape == wanted[k].shape
        }
        ours.load_state_dict(found, strict=False)
