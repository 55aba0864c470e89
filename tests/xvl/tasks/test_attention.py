"""Word maps, checked against the plain way to compute them; scores of maps, worked by hand; what is
left out.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import assert_close, rounding

from medxvl.config import presets
from medxvl.data import text
from medxvl.layers import vision_transformer
from medxvl.xvl import word_maps
from medxvl.xvl.model import XVL
from medxvl.xvl.tasks import attention as task
from medxvl.xvl.tasks import boxes

# A map is a gradient: the longest chain of additions is that through the text and fusion layers of
# preset smoke (2 + 2, 48 wide), there and back.
CHAIN = 2 * 4 * 48
TEXTS = [
    "No acute process. There is a left pleural effusion.",
    "ground-glass opacity in both lungs.",
    "the heart is enlarged.",
]
pytestmark = pytest.mark.numeric
TOKENIZER = text.train_tokenizer([text.clean_report(t) for t in TEXTS] * 3, 200)


def model_of(overrides="", seed=0):
    torch.manual_seed(seed)
    model = XVL(presets.load("smoke", overrides), len(TOKENIZER))
    for part in model.modules():  # attention that is not even, as pooling_start leaves it
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, std=0.3)
    return model.eval()


def pictures(n=4):
    return torch.randint(
        0, 256, (n, 69, 69), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


class Plain(torch.nn.Module):
    """A cross-attention written out, which keeps its attention: what the maps are computed from in
    the plain way.
    """

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden_states, encoder_hidden_states=None, **_):
        inner, heads = self.inner, self.inner.num_attention_heads
        q, k, v = (
            f(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for f, x in (
                (inner.query, hidden_states),
                (inner.key, encoder_hidden_states),
                (inner.value, encoder_hidden_states),
            )
        )
        self.attention = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        self.attention.retain_grad()
        return (self.attention @ v).transpose(1, 2).flatten(2), self.attention


@pytest.mark.parametrize(
    "overrides", ["", "packed=1", "itm_heads=2", "fusion_layers=1", "fusion_layers=3 packed=1"]
)
def test_maps_are_attention_times_the_positive_gradient(overrides):
    """One pair at a time through transformers' own layers, with the attention kept; all pairs at
    once by ours.
    """
    model, image_of, text_of = model_of(overrides), [0, 1, 2, 3, 3], [0, 1, 2, 0, 1]
    tokens = word_maps.encode(model, pictures())
    made = word_maps.explain(model, TOKENIZER, tokens, TEXTS, image_of, text_of)
    plain = model_of(overrides.replace("packed=1", ""))
    plain.online.fusion.encoder.layer[0].crossattention.self = Plain(
        plain.online.fusion.encoder.layer[0].crossattention.self
    )
    for k, (i, t) in enumerate(zip(image_of, text_of, strict=True)):
        cleaned = text.clean_report(TEXTS[t])
        ids, mask = text.encode(TOKENIZER, [cleaned], 24)
        states, _ = plain.online.encode_text(ids, mask)
        no, yes = plain.match_logits(states, mask, tokens[[i]])[0]
        yes.backward()
        kept = plain.online.fusion.encoder.layer[0].crossattention.self.attention
        of_tokens = (kept * kept.grad.clamp(min=0))[0].mean(0)[:, 1:]
        pieces = TOKENIZER(cleaned, truncation=True, max_length=24, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        wanted = torch.zeros_like(made.maps[k])
        for w, word in enumerate(cleaned.split(" ")):
            start = sum(len(x) + 1 for x in cleaned.split(" ")[:w])
            own = [
                j
                for j, (a, b) in enumerate(pieces)
                if start <= a < start + len(word) and cleaned[a:b].isalnum()
            ]
            wanted[w] = of_tokens[own].mean(0).detach().view_as(wanted[w])
        # all words at once: a small map comes from the same sums as a large one
        assert_close(made.maps[k], wanted, terms=CHAIN)
        assert abs(yes - no - made.logits[k]) < rounding(torch.stack([yes, no]), CHAIN)
    assert (made.maps.max() > 0) == (
        model.preset.fusion_layers > 1
    )  # in a single layer the score hangs on [CLS] alone


def test_words_hyphens_full_stops_and_what_is_cut_off():
    words, share = word_maps.words_of(TOKENIZER, ["ground-glass opacity. no 1.5 cm nodule", "."], 9)
    assert words[0] == ["ground-glass", "opacity.", "no", "1.5", "cm", "nodule"] and words[1] == [
        "."
    ]
    sums = share.sum(axis=2)
    assert (
        sums[0, 0] == pytest.approx(1, abs=rounding(1.0, 3, torch.float32), rel=0)
        and sums[0, 5] == 0
        and not sums[1].any()
    )  # cut off; a full stop is no word
    made = word_maps.explain(
        model_of(), TOKENIZER, word_maps.encode(model_of(), pictures(1)), ["opacity ."]
    )
    assert (
        made.words == [["opacity", ""]]
        and made.covered.tolist() == [[True, False]]
        and not made.maps[0, 1].any()
    )


def test_a_pair_does_not_depend_on_the_others():
    model = model_of()
    tokens = word_maps.encode(model, pictures())
    together = word_maps.explain(model, TOKENIZER, tokens, TEXTS, [3, 1, 2], [0, 1, 2])
    alone = word_maps.explain(model, TOKENIZER, tokens[[1]], [TEXTS[1]])
    assert_close(together.maps[1, :5], alone.maps[0], terms=CHAIN)


def test_head_maps_sum_to_what_class_token_gives_the_patches():
    attention = word_maps.encode(model_of(), pictures(3), vision_transformer.last_attention)
    maps = word_maps.head_maps(attention)
    assert attention.shape == (3, 2, 17, 17) and torch.equal(
        maps[1, 0].flatten(), attention[1, 0, 0, 1:]
    )
    assert maps.shape == (3, 2, 4, 4) and (maps >= 0).all() and (maps.sum(dim=(2, 3)) < 1).all()


def test_a_traced_map_is_the_map_followed_through_the_last_layer():
    model = model_of()
    tokens, trace = (
        word_maps.encode(model, pictures(2)),
        word_maps.encode(model, pictures(2), vision_transformer.last_attention).mean(dim=1),
    )
    plain, traced = (
        word_maps.explain(model, TOKENIZER, tokens, TEXTS[:2], trace=t).maps for t in (None, trace)
    )
    alone = word_maps.explain(
        model, TOKENIZER, tokens, TEXTS[:2], trace=torch.eye(17).expand(2, -1, -1)
    ).maps
    assert_close(plain, alone, terms=17)
    states, mask = text.encode(TOKENIZER, [text.clean_report(t) for t in TEXTS[:2]], 24)
    states, _ = model.online.encode_text(states, mask)
    _, maps = word_maps.token_maps(model, states, mask, tokens, torch.arange(2))
    # "opacity", the fifth token
    assert_close(traced[1, 1].flatten(), maps[1, 4] @ trace[1][:, 1:], terms=CHAIN)


def test_upsampling_keeps_a_map_in_its_place():
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = 1
    large = word_maps.upsample(maps, 64)[0]
    assert large.max() > 0.9 and divmod(int(large.argmax()), 64) in [
        (r, c) for r in (23, 24) for c in (39, 40)
    ]


def test_suspicion_hides_a_word_at_a_time():
    model = model_of()
    tokens = word_maps.encode(model, pictures(1))
    logit, words, rises, offers = word_maps.suspicion(model, TOKENIZER, tokens, TEXTS[2])
    assert words == ["the", "heart", "is", "enlarged"] and len(offers) == 4 and all(offers)

    def matching(ids):
        states, _ = model.online.encode_text(ids, torch.ones_like(ids))
        no, yes = model.match_logits(states, torch.ones_like(ids), tokens)[0].tolist()
        limits.append(rounding([yes, no], CHAIN, torch.float32))
        return yes - no

    limits = []
    ids = text.encode(TOKENIZER, ["the heart is enlarged."], 24)[0]
    plain = matching(ids)
    assert abs(logit - plain) < limits[-1]
    hidden = ids.clone()
    (at,) = torch.where(ids[0] == TOKENIZER.convert_tokens_to_ids("heart"))
    hidden[0, at] = TOKENIZER.mask_token_id
    assert abs(rises[1] - (matching(hidden) - plain)) < sum(limits)


# --- boxes ----------------------------------------------------------------------------------------
PRESET = SimpleNamespace(resize=8, image_size=6)


def box_table(*rows):
    columns = ["image_id", "finding", "x0", "y0", "x1", "y1", "width", "height"]
    return pd.DataFrame(rows, columns=columns)


def test_boxes_follow_the_pixels():
    """A bright rectangle, sent through the preparation and the view, lies where its box lies."""
    from data_prep.reading.images import shrink_and_pad

    preset = presets.load("demo")
    for height, width in ((240, 200), (200, 233), (220, 220)):
        picture = np.zeros((height, width), np.uint8)
        picture[60:120, 80:160] = 255
        view = vision_transformer.plain_view(
            torch.from_numpy(shrink_and_pad(picture, 69))[None], preset
        )[0, 0].numpy()
        sides = boxes.in_view(box_table(("a", "f", 80, 60, 160, 120, width, height)), 69, preset)
        lit = view > 0.5
        found = [np.flatnonzero(lit.any(0))[[0, -1]], np.flatnonzero(lit.any(1))[[0, -1]]]
        assert (
            np.abs(sides[0] - [found[0][0], found[1][0], found[0][1] + 1, found[1][1] + 1]).max()
            < 1
        )
        assert (boxes.areas(sides, np.zeros(1, int), 1, 64)[0] != lit).mean() < 0.02


def test_two_boxes_of_an_item_are_one_area_and_a_box_outside_is_empty():
    table = box_table(
        ("a", "f", 0, 0, 1, 1, 8, 8), ("a", "f", 2, 2, 4, 4, 8, 8), ("b", "f", 4, 4, 8, 8, 8, 8)
    )
    sides = boxes.in_view(table, 8, PRESET)
    assert sides[0].tolist() == [0, 0, 0, 0]  # cropped away
    area = boxes.areas(sides, np.array([0, 0, 1]), 2, 6)
    assert (
        area[0].sum() == 4
        and area[0, 1:3, 1:3].all()
        and area[1, 3:, 3:].all()
        and area[1].sum() == 9
    )


# --- scores, worked by hand -----------------------------------------------------------------------
def test_measures_by_hand():
    area = np.zeros((1, 2, 4), bool)
    area[0, :, :2] = True
    maps = np.array([[[4.0, 2, 1, 0], [4, 2, 4, 0]]])
    found = task.measures(maps, area)
    assert_close(found["pointing"][0], 2 / 3, terms=8)  # three highest pixels, two inside
    assert_close(found["iou"][0], 4 / 5, terms=8)  # marked: 4 2 4 2 inside, 4 outside
    inside, outside = np.array([4, 2, 4, 2]), np.array([1, 0, 4, 0])
    assert_close(found["cnr"][0], (3 - 1.25) / np.sqrt(inside.var() + outside.var()), terms=8)
    assert_close(task.measures(maps, area, 1.0)["iou"][0], 2 / 5, terms=8)


def test_degenerate_maps_and_boxes():
    area = np.zeros((5, 2, 2), bool)
    area[[0, 1, 4], 0, 0] = True
    area[2] = True
    maps = np.zeros((5, 2, 2))
    maps[1:4] = 0.3
    maps[4, 0, 0] = 1
    found = task.measures(maps, area)
    assert [found[k][0] for k in ("pointing", "iou", "cnr")] == [0, 0, 0]  # an empty map
    flat = [found[k][1] for k in ("pointing", "iou", "cnr")]
    assert_close(flat, [0.25, 0.25, 0], terms=4)  # no more than chance
    assert found["pointing"][2] == found["iou"][2] == 1 and np.isnan(
        found["cnr"][2]
    )  # the box is the image
    assert all(np.isnan(found[k][3]) for k in found)  # no box
    assert found["pointing"][4] == found["iou"][4] == 1 and np.isnan(
        found["cnr"][4]
    )  # nothing varies
    assert task.chance(area)["pointing"].tolist() == [0.25, 0.25, 1, 0, 0.25]
    assert all(
        len(v) == 0 for v in task.measures(np.zeros((0, 2, 2)), np.zeros((0, 2, 2), bool)).values()
    )


def test_a_random_point_earns_chance_and_the_grid_has_a_ceiling():
    rng = np.random.default_rng(0)
    area = np.zeros((400, 16, 16), bool)
    area[:, 2:6, 9:15] = True
    points = task.measures(rng.random(area.shape), area)["pointing"].mean()
    share = task.chance(area)["pointing"][0]
    assert abs(points - share) < 3 * np.sqrt(share * (1 - share) / 400)  # three standard errors
    best = task.ceiling(area, 4, 0.5)
    assert (
        best["pointing"][0] == pytest.approx(1, abs=rounding(1.0, 16), rel=0)
        and 0.3 < best["iou"][0] < 1
        and best["cnr"][0] > 1
    )
    area[:, 5:] = False  # rows 2 to 4: between the middles of the patches, rows 0 to 1 and 5 to 6
    assert (
        task.ceiling(area, 4, 0.5)["pointing"][0] == 0 < task.ceiling(area, 16, 0.5)["pointing"][0]
    )


def test_controls():
    maps = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(0))
    findings = ["a", "a", "a", "b", "b", "c"]
    scaled = maps / maps.amax(dim=(1, 2), keepdim=True)
    mean = task.mean_maps(maps, findings)
    assert_close(mean[0], (scaled[1] + scaled[2]) / 2, terms=3)
    assert_close(mean[3], scaled[4], terms=3)
    assert not mean[5].any()  # there is no other
    others = task.other_finding(findings, 0)
    assert all(a != b for a, b in zip(findings, others, strict=True)) and set(others) <= {
        "a",
        "b",
        "c",
    }
    assert task.other_finding(["a", "a"], 0).tolist() == ["a", "a"]
    middle = task.centre_maps(2, 4)
    assert middle.shape == (2, 4, 4) and middle[0].argmax() in (5, 6, 9, 10)


def test_word_maps_of_findings_are_means_over_words_and_sentences():
    model = model_of()
    tokens = word_maps.encode(model, pictures(2))
    maps = task.word_maps(model, TOKENIZER, tokens, [1, 0], ["Pneumonia", "Mass"])
    one = word_maps.explain(model, TOKENIZER, tokens[[0]], ["mass is present."])
    assert_close(maps[1], one.maps[0].mean(dim=0), terms=CHAIN)
    five = task.sentences("Pneumonia")
    made = word_maps.explain(model, TOKENIZER, tokens, five, [1] * 5, range(5))
    per = torch.stack([m[c].mean(dim=0) for m, c in zip(made.maps, made.covered, strict=True)])
    assert_close(maps[0], per.mean(dim=0), terms=CHAIN)


# --- items and rows -------------------------------------------------------------------------------
@pytest.fixture
def dataset(tmp_path):
    index = pd.DataFrame(
        {
            "image_id": list("abcd"),
            "patient_id": ["1", "2", "2", "3"],
            "split": ["test"] * 3 + ["train"],
        }
    )
    box_table(
        ("b", "Effusion", 2, 2, 4, 4, 8, 8),
        ("a", "Edema", 3, 3, 6, 6, 8, 8),
        ("a", "Edema", 1, 1, 3, 3, 8, 8),
        ("a", "Hernia", 0, 0, 1, 1, 8, 8),
        ("d", "Edema", 2, 2, 4, 4, 8, 8),
        ("x", "Edema", 2, 2, 4, 4, 8, 8),
    ).to_csv(tmp_path / "boxes.csv", index=False)
    return SimpleNamespace(folder=tmp_path, index=index, card={"size": 8}, label="real")


def test_items(dataset):
    of, area = task.items(dataset, PRESET)
    assert of.values.tolist() == [[0, "a", "1", "Edema"], [1, "b", "2", "Pleural Effusion"]]
    assert area[0].sum() == 9 + 4 and area.shape == (2, 6, 6)
    assert list(task.items(dataset, PRESET, split=None)[0]["image_id"]) == ["a", "b", "d"]
    assert list(task.items(dataset, PRESET, findings=["Edema"])[0]["image_id"]) == ["a"]
    assert list(task.items(dataset, PRESET, most=1)[0]["image_id"]) == ["a"]
    (dataset.folder / "boxes.csv").unlink()
    of, area = task.items(dataset, PRESET)
    assert len(of) == 0 and area.shape == (0, 6, 6)


def test_lung_boxes_count_where_the_disease_is(dataset):
    dataset.index = dataset.index.assign(covid=[1, 0, 1, 1])
    box_table(
        ("a", "Right Lung", 1, 1, 3, 6, 8, 8),
        ("a", "Left Lung", 4, 1, 7, 6, 8, 8),
        ("b", "Left Lung", 4, 1, 7, 6, 8, 8),
    ).to_csv(dataset.folder / "boxes.csv", index=False)
    of, area = task.items(dataset, PRESET)
    assert (
        of[["image_id", "finding"]].values.tolist() == [["a", "lungs"]] and area[0].sum() == 10 + 15
    )


def test_rows_are_means_over_findings_with_intervals_over_patients():
    of = pd.DataFrame({"patient_id": ["1", "1", "2", "3"], "finding": ["a", "b", "b", "b"]})
    scores = {"pointing": np.array([1.0, 0, 1, 1]), "cnr": np.array([np.nan, 1, 1, 4])}
    guess = {"pointing": np.array([0.5, 0.25, 0.25, 0.25])}
    rows = task.evaluate(scores, of, guess, dataset="d", model="m", n_resamples=200)
    found = {(r["subset"], r["metric"]): r for r in rows}
    assert found["a", "pointing"]["value"] == 1 and found["mean of 2", "pointing"]["n"] == 4
    assert_close(found["b", "pointing"]["value"], 2 / 3, terms=3)
    assert_close(found["mean of 2", "pointing"]["value"], 5 / 6, terms=3)
    assert_close(found["mean of 2", "pointing_lift"]["value"], (5 / 6) / 0.375, terms=3)
    assert_close(found["b", "pointing_lift"]["value"], (2 / 3) / 0.25, terms=3)
    assert (
        found["b", "cnr"]["value"] == 2
        and found["b", "cnr"]["ci_low"] < 2 < found["b", "cnr"]["ci_high"]
    )
    assert np.isnan(found["a", "cnr"]["value"]) and found["a", "cnr"]["n"] == 0
