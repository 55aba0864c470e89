"""The table of settings as data: its reader, and what the table must hold."""

import csv

import pytest

from medxvl.config import consistency, presets, settings


def test_a_further_preset_is_one_more_column(tmp_path):
    with open(settings.FILE, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0])
    columns.insert(columns.index("least"), "large")
    for row in rows:
        row["large"] = "20" if row["name"] == "epochs" else row["paper"]
    file = tmp_path / "settings.csv"
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    names, table = settings.read(file)
    assert names == ("smoke", "demo", "paper", "large")
    assert table["epochs"].values == {"smoke": 1, "demo": 10, "paper": 5, "large": 20}


def row(**cells):
    given = {"name": "x", "group": "run", "meaning": "m", "source": "s"}
    empty = dict.fromkeys(("least", "most", "choices", "former"), "")
    return settings.Setting.from_row(empty | given | cells, ("small", "large"))


def test_the_type_is_that_of_all_presets():
    assert row(small="1", large="2").kind is int
    assert row(small="1.0", large="2").values == {"small": 1.0, "large": 2.0}
    assert row(small="1", large="a").kind is str
    assert row(small="", large="").values == {"small": "", "large": ""}
    assert row(small="1.5", large="2", former="3").former == 3.0


def test_a_value_of_the_table_outside_its_own_bounds_is_refused():
    assert row(small="1", large="2", least="1", most="2").value("2") == 2
    with pytest.raises(ValueError, match="x=3: expected at least 1, at most 2"):
        row(small="1", large="3", least="1", most="2")
    with pytest.raises(ValueError, match="x=c: expected one of a, b"):
        row(small="a", large="c", choices="a|b")
    assert row(small="a,b", large="a", choices="list: a|b").value("b, a") == "b, a"
    with pytest.raises(ValueError, match="one or more of a, b, separated by commas"):
        row(small="a,b", large="a", choices="list: a|b").value("a,c")


@pytest.mark.parametrize("name", presets.NAMES)
@pytest.mark.parametrize("ablation", ["", *presets.ABLATIONS])
def test_the_presets_go_together(name, ablation):
    consistency.check(presets.load(name, f"ablation={ablation}"))


def test_the_early_version_goes_together():
    consistency.check(presets.load("paper", presets.EARLY_XVL))


@pytest.mark.parametrize(
    "overrides, said",
    [
        ("ibot_local_size=30", "ibot_local_size must be a multiple of patch_size"),
        ("patch_size=32 vision_stem=conv image_size=96 resize=96 ibot_local_size=32", ""),
        ("patch_size=2 ibot_local_size=32", "power of two from 4 on"),
        ("vision_width=63", "vision_width must be a multiple of vision_heads"),
        ("medvill_width=50", "medvill_width must be a multiple of medvill_heads"),
        ("medvill_image_size=60", "medvill_image_size must be a multiple of medvill_patch"),
        ("medvill_trunk=resnet50 medvill_image_size=31", "32 is the least"),
        ("medvill_trunk=resnet50 medvill_image_size=64", ""),  # all positions are kept
        ("medvill_positions=17", ""),
        ("medvill_text=127", ""),
        ("medvill_text=128", "needs at least 129 rows"),
        ("ibot_local_size=30 ibot_local_crops=0", ""),
        ("max_tokens=65", "needs at least 65 rows"),
        ("generate_most=129", "needs at least 129 rows"),
        ("correct_most=63", "needs at least 65 rows"),
        ("ibot_local_low=0.7", "the smallest area is above the largest"),
    ],
)
def test_what_cannot_work_is_refused(overrides, said):
    preset = presets.load("demo", overrides)
    if not said:
        return consistency.check(preset)
    with pytest.raises(ValueError, match=said):
        consistency.check(preset)


def test_a_hint_lists_few_names_and_only_the_nearest_of_many():
    assert presets.hint("quick", presets.NAMES) == ": expected one of smoke, demo, paper"
    assert presets.hint("learnign_rate", settings.TABLE).startswith(" (did you mean learning_rate")
    assert presets.hint("queue", settings.TABLE) == " (did you mean queue_size?)"
    assert presets.hint("xyzzy", settings.TABLE) == ""
