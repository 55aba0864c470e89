"""X-VL's encoder-decoder: the release's losses, logits and beam searches; the cache changes
nothing.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from tolerance import assert_close, assert_recorded
from xvl_recorded import PARITY, TINY, part

from medxvl.config import presets
from medxvl.data import text
from medxvl.layers import beam_search
from medxvl.layers.beam_search import Rules
from medxvl.xvl import model as xvl
from medxvl.xvl import writer as xvl_writer

pytestmark = pytest.mark.numeric
RELEASE = load_file(PARITY / "xvl_writer.safetensors")
BEAMS = json.loads((PARITY / "xvl_writer.json").read_text(encoding="utf-8"))["beams"]
SETTINGS = TINY + "writer_text_layers=2 writer_layers=4 xvl_tune_frozen=0 writer_copies=0 "
# Additions behind a log-probability: 4 layers, 48 wide, with attention to as many as 17 tokens.
CHAIN = 4 * 48 + 17


def released(decoder, weights):
    """Put the release's decoder, `bert.*` and `cls.*`, into ours."""
    state = {
        k.removeprefix("bert.encoder.").replace("layer.", "layers.", 1): v
        for k, v in weights.items()
        if "encoder" in k
    }
    state |= {
        k.removeprefix("bert."): v
        for k, v in weights.items()
        if "embeddings" in k and "position_ids" not in k
    }
    head = "cls.predictions."
    state |= {
        k.removeprefix(head): v
        for k, v in weights.items()
        if k.startswith(f"{head}transform") or k == f"{head}bias"
    }
    decoder.load_state_dict(state)
    return decoder.eval()


@pytest.fixture(scope="module")
def decoder():
    preset = presets.load("smoke", SETTINGS + "writer_positions=121")
    return released(xvl_writer.Decoder(preset, 200, 48), part("weights/", RELEASE))


@pytest.fixture(scope="module")
def tiny():
    """A writer with large random weights, which writes texts of different lengths, and what it
    looks at. In float64: which word is likeliest must not hang on rounding.
    """
    torch.manual_seed(3)
    preset = presets.load("smoke", SETTINGS + "initial_range=0.1 writer_positions=24 dropout=0")
    writer = xvl_writer.start_from(xvl.XVL(preset, 40), reads=True).double().eval()
    with torch.no_grad():
        writer.decoder.embeddings.word_embeddings.weight.mul_(2)
        writer.decoder.bias[3] += 2.0
    ids = torch.randint(5, 40, (6, 7))
    mask = (torch.arange(7) < torch.tensor([7, 4, 5, 7, 3, 6])[:, None]).long()
    with torch.no_grad():
        return writer, writer.remember(torch.randn(6, 17, 48).double(), (ids, mask))


@torch.no_grad()
def test_losses_and_logits_of_the_release(decoder):
    ids, mask = RELEASE["in/answer_ids"], RELEASE["in/answer_mask"]
    memory = decoder.remember(RELEASE["out/question_states"], RELEASE["in/question_mask"])
    logits, real = decoder.logits(decoder.states(ids, memory)), mask.bool()
    assert_recorded(logits[real], RELEASE["out/decoder_logits"][real])
    writer = xvl_writer.Writer(
        presets.load("smoke", SETTINGS), torch.nn.Identity(), 200, reads=True
    )
    writer.decoder = decoder
    likelihood = writer.log_likelihood(memory, ids, mask)
    # sums of eight and more numbers, up to 76
    assert_close(-likelihood, RELEASE["out/loss_per_sample"], terms=CHAIN)
    assert_close(-likelihood.mean(), RELEASE["out/loss"], terms=CHAIN)
    targets = RELEASE[
        "out/answer_targets"
    ]  # what the release predicts: every token after the first, no padding
    assert (targets != -100).equal(real) and targets[real].equal(ids[real])


@torch.no_grad()
def test_reader_and_decoder_of_the_release(shared):
    """The whole chain: image, question beside the image, loss of the answers."""
    t = load_file(shared / "parity" / "xvl_vqa.safetensors")
    weights = part("weights/", t)
    writer = xvl_writer.Writer(
        presets.load("smoke", SETTINGS + "writer_positions=160"),
        torch.nn.Identity(),
        200,
        reads=True,
    )
    released(writer.decoder, part("fusion_decoder.", weights))
    words = part("text_encoder.", weights)
    words.pop("embeddings.position_ids")
    where = {0: "layers.0.", 1: "layers.1.", 2: "cross.0.", 3: "cross.1."}
    state = {k if k.startswith("emb") else where[int(k[14])] + k[16:]: v for k, v in words.items()}
    writer.reader.load_state_dict(state)
    writer.eval()
    question = t["in/question_ids"], t["in/question_mask"]
    states, real = writer.reader(*question, t["out/image_embeds"]), question[1].bool()
    assert_recorded(states[real], t["out/question_states"][real])
    loss = writer(t["out/image_embeds"], t["in/answer_ids"], t["in/answer_mask"], *question)[
        "total"
    ]
    assert_close(loss, t["out/loss"], terms=CHAIN)


@pytest.mark.parametrize("name", BEAMS)
def test_beam_search_of_the_release(decoder, name):
    case = BEAMS[name]
    memory = decoder.remember(RELEASE["beam/states"], RELEASE["beam/atts"])
    rules = Rules(
        stop=3,
        most=case["max_length"],
        beams=case["beam_size"],
        least=case["min_length"],
        length_power=0.6,
        stopped_go_on=True,
    )
    with torch.no_grad():
        decoder.bias[3] += case["extra_eos_bias"]
    found = beam_search.beam(decoder.step, decoder.start(memory), 10, rules)
    with torch.no_grad():
        decoder.bias[3] -= case["extra_eos_bias"]
    for words, ids in zip(found.words.tolist(), case["ids"], strict=True):
        assert [2, *words[: len(ids) - 1]] == ids and not any(words[len(ids) - 1 :])
    # sums of up to 120 log-probabilities, each of them some additions deep
    assert_close(found.scores, torch.tensor(case["scores"]), terms=CHAIN + 120)


class LastWord:
    """A model that knows the last word alone: probabilities of the next one, of a (1), b (2) and
    stop (3).
    """

    table = (
        torch.tensor(
            [[0, 0.5, 0.2, 0.25], [0, 0.05, 0.6, 0.35], [0, 0.02, 0.02, 0.02], [0, 1.0, 0, 0]]
        )
        .clamp(min=1e-9)
        .log()
    )

    def select(self, rows):
        return self

    def step(self, state, words):
        return self.table[torch.zeros(1, dtype=torch.long) if words is None else words], self


def test_stopped_beams_rest():
    """By default a beam that has stopped is left alone; the release writes on behind the stop word
    and loses `a stop`.
    """
    rules, model = dict(stop=3, most=3, beams=2, length_power=3.0), LastWord()
    ours, theirs = (
        beam_search.beam(model.step, model, 1, Rules(**rules, stopped_go_on=k)).words.tolist()
        for k in (False, True)
    )
    assert ours == [[1, 3, 0]] and theirs == [[3, 1, 2]]


@torch.no_grad()
def test_the_cache_changes_nothing(tiny):
    writer, memory = tiny
    found = writer.write(memory, Rules(stop=3, most=12)).words
    words, stopped = torch.zeros(6, 12, dtype=torch.long), torch.zeros(6, dtype=torch.bool)
    state, last = writer.decoder.start(memory), None
    for k in range(12):
        whole = torch.cat([torch.full((6, 1), 2), words[:, :k]], dim=1)
        log_p = writer.decoder.logits(writer.decoder.states(whole, memory)[:, -1]).log_softmax(
            dim=-1
        )
        step, state = writer.decoder.step(state, last)
        assert_close(step, log_p, terms=CHAIN)
        best = log_p.argmax(dim=1)
        words[~stopped, k] = best[~stopped]
        stopped |= best == 3
        last = words[:, k]
    assert found.equal(words)
    assert 0 < stopped.sum() and len(words.unique(dim=0)) > 2, "texts differ"


def test_a_text_is_the_same_alone_and_in_a_batch(tiny):
    writer, memory = tiny
    for rules in (
        Rules(stop=3, most=9),
        Rules(stop=3, most=9, beams=4, length_power=0.6),
        Rules(stop=3, most=9, beams=3),
    ):
        together = writer.write(memory, rules)
        for k in range(6):
            alone = writer.write(memory.select(torch.tensor([k])), rules)
            assert alone.words[0].equal(together.words[k])
            assert_close(alone.scores[0], together.scores[k], terms=CHAIN)


@torch.no_grad()
def test_likelihood_is_the_sum_over_the_steps_and_the_score_of_what_was_written(tiny):
    writer, memory = tiny
    found = writer.write(memory, Rules(stop=3, most=9, beams=3))
    ended = (found.words == 3).any(dim=1)
    assert ended.any()
    ids = torch.cat([torch.full((6, 1), 2), found.words], dim=1)
    mask = torch.cat(
        [torch.ones(6, 2), ((found.words == 3).cumsum(1)[:, :-1] == 0).float()], dim=1
    ).long()
    likelihood = writer.log_likelihood(memory, ids, mask)
    assert_close(likelihood, found.scores, terms=CHAIN)
    # many texts beside one memory, as for the candidates of an answer
    rows = torch.tensor([1, 1, 0])
    some = writer.log_likelihood(memory.select(rows), ids[[1, 0, 0]], mask[[1, 0, 0]])
    assert_close(some[[0, 2]], likelihood[[1, 0]], terms=CHAIN)
    first, _ = writer.decoder.step(writer.decoder.start(memory), None)
    assert_close(first.exp().sum(dim=1), torch.ones(6).double(), terms=CHAIN)


def test_padding_is_not_seen(tiny):
    writer, _ = tiny
    image, ids = torch.randn(1, 17, 48).double(), torch.tensor([[2, 7, 8, 9, 3, 0, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():
        long, short = (
            writer.log_likelihood(
                writer.remember(image, (ids[:, :n], mask[:, :n])), ids[:, :m], mask[:, :m]
            )
            for n, m in ((7, 7), (5, 5))
        )
    assert_close(long, short, terms=CHAIN)


def test_it_starts_from_pre_training():
    """Weights come from X-VL, are copies, and the image encoder stays as it is where it is held."""
    preset = presets.load("smoke", "writer_copies=0")
    tokenizer = text.train_tokenizer(["no edema", "edema is seen"] * 3, 60)
    model = xvl.XVL(preset, len(tokenizer))
    writer = xvl_writer.start_from(model, reads=True).train()
    fused = model.online.fusion.encoder.layer
    for ours, theirs in (
        (writer.reader.cross[0].crossattention, fused[0].crossattention),
        (writer.decoder.layers[1].attention, fused[1].attention),
    ):
        assert torch.equal(ours.self.value.weight, theirs.self.value.weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ids, mask = text.encode(tokenizer, ["no edema", "edema is seen"], 24)
    optimizer = torch.optim.AdamW([p for p in writer.parameters() if p.requires_grad], lr=1e-2)
    held = writer.vision.state_dict()
    held = {k: v.clone() for k, v in held.items()}
    losses = []
    for _ in range(5):
        loss = writer(torch.rand(2, 1, 64, 64), ids, mask, ids, mask)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(v, held[k]) for k, v in writer.vision.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
