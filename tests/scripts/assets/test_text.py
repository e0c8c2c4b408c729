"""The rated sentences: how they are parsed, labelled and split."""

from __future__ import annotations

from assets.text import parse_ratings, split_by_review


# Three reviews: 7 has two clear sentences and one on which people disagree, 12 and 30 have one clear sentence each.
RATINGS = """\
7_1\t2.5\tBattery lasts all day . \t[3, 2]
7_2\t-0.5\tIt is a camera.\t[0, -1]
7_3\t-3.1\tThe lens cap broke.\t[-3, -3]
12_1\t0.55\tWorks.\t[1, 0]
30_1\t-1.0\tToo heavy.\t[-1, -1]
a line without tabs
"""


def test_ratings_are_parsed_and_other_lines_left_out():
    rated = parse_ratings(RATINGS)
    assert [row["id"] for row in rated] == ["7_1", "7_2", "7_3", "12_1", "30_1"]
    assert rated[0] == {"id": "7_1", "review": "7", "rating": 2.5, "text": "Battery lasts all day ."}


def test_labels_are_signs_and_disputed_sentences_are_dropped():
    splits = split_by_review(parse_ratings(RATINGS), train_at_least=2)
    labels = {row["id"]: row["label"] for row in splits["train"] + splits["test"]}
    assert labels == {"7_1": 1, "7_3": 0, "12_1": 1, "30_1": 0}  # without 7_2: a rating of exactly -0.5


def test_no_review_has_sentences_on_both_sides():
    ratings = "\n".join(f"{review}_{i}\t{(-1) ** i}\tText {i}." for review in range(40) for i in range(5))
    splits = split_by_review(parse_ratings(ratings), train_at_least=63, shots=4)
    train, test = ({row["review"] for row in splits[name]} for name in ("train", "test"))
    assert not train & test and len(train | test) == 40
    assert len(splits["train"]) == 65  # the first whole number of reviews of five that reaches 63
    assert [row["label"] for row in splits["train_32"]] == [1] * 4 + [0] * 4
    # The very draw, because published numbers stand on it.
    assert [row["id"] for row in splits["train_32"]] == ["27_0", "5_2", "34_2", "21_0", "7_3", "0_3", "10_1", "20_1"]
    assert [row["id"] for row in splits["test"][:4]] == ["4_2", "3_1", "23_1", "8_3"]
    assert all(row in splits["train"] for row in splits["train_32"])
