"""Splits: drawn for groups, stable when a corpus grows, and true to their shares."""

import pytest

from curate.core.errors import ConfigError
from curate.splits import Origin, assign_splits, draw, parse_splits, unit_of

TENTH = {"val": 0.1}


def assign(units, pairs=(), rounds=None, fixed=None, splits=TENTH):
    return assign_splits(units, rounds or [0] * len(units), pairs, splits, 0, fixed or {})


def test_shares_are_near_what_was_asked():
    units = [f"picture {i}" for i in range(20_000)]
    names = assign(units, splits={"val": 0.01, "test": 0.05})
    assert 0.008 < names.count("val") / len(names) < 0.012
    assert 0.045 < names.count("test") / len(names) < 0.055


def test_a_group_is_in_one_split_and_takes_the_smallest_draw():
    units = [f"picture {i}" for i in range(300)]
    pairs = [(i, i + 1) for i in range(0, 299, 2)]
    names = assign(units, pairs)
    assert all(names[i] == names[j] for i, j in pairs)
    held_out = {i // 2 for i, unit in enumerate(units) if draw(0, unit) < 0.1}
    assert {i // 2 for i, name in enumerate(names) if name == "val"} == held_out
    assert held_out


def test_growing_moves_no_group_that_nothing_joins_and_none_out_of_val():
    units = [f"picture {i}" for i in range(500)]
    before = assign(units)
    after = assign([*units, *(f"new {i}" for i in range(500))], [(i, 500 + i) for i in range(250)])
    assert after[250:500] == before[250:500]
    assert all(now == "val" for was, now in zip(before, after[:500], strict=True) if was == "val")


def test_what_came_first_decides_so_that_written_shards_stay():
    units = [f"picture {i}" for i in range(200)]
    before = assign(units[:100])
    after = assign(units, [(i, 100 + i) for i in range(100)], rounds=[0] * 100 + [1] * 100)
    assert after[:100] == before == after[100:]


def test_one_author_or_host_stays_together_and_unread_inputs_are_in_no_split():
    one, other = Origin("", "https://x.org/1.jpg"), Origin("", "https://x.org/2.jpg")
    assert unit_of("a", one, ("author", "host")) == unit_of("b", other, ("author", "host")) == "host x.org"
    assert unit_of("a", Origin(" Ann", "https://x.org/1.jpg"), ("author", "host")) == "author ann"
    assert unit_of("a", Origin("Ann", "https://x.org/1.jpg"), ()) == unit_of("a", Origin(), ("author", "host")) == "a"
    names = assign(["host x.org", "", *(["host y.org"] * 3)])
    assert names[1] == "" and len(set(names[2:])) == 1


def test_near_pictures_of_an_earlier_corpus_decide():
    units = [f"picture {i}" for i in range(50)]
    names = assign([*units, *(f"known {i}" for i in range(50))], [(i, 50 + i) for i in range(50)],
                   fixed={50 + i: "val" if i % 2 else "train" for i in range(50)})  # fmt: skip
    assert names[:50] == ["train", "val"] * 25


@pytest.mark.parametrize(
    "texts", [["val"], ["val=1"], ["train=1%"], ["val=1%", "val=2%"], ["a b=1%"], ["=1%"], ["val=100%"]]
)
def test_bad_splits_are_refused(texts):
    with pytest.raises(ConfigError, match="--split"):
        parse_splits(texts)


def test_splits_are_read_in_order():
    assert list(parse_splits(["val=1%", "test=5%"]).items()) == [("val", 0.01), ("test", 0.05)]


def test_the_draw_depends_on_the_seed():
    assert draw(0, "x") != draw(1, "x")
    assert 0 <= draw(0, "x") < 1
