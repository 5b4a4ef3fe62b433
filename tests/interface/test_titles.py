"""Titles say what was asked, in one short line."""

from __future__ import annotations

import pytest

from interface.titles import tidied


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("  你好,\n world  ", "你好, world"),
        ("# What is **bold** and `code`?", "What is bold and code?"),
        ("Explain this:\n```python\nprint(1)\n```", "Explain this:"),
        ("```\nprint(1)\n```", "``` print(1) ```"),
        ("> quoted\n- one\n2. two", "quoted one two"),
        ("See [the page](http://x.y/z) and ![a cat](cat.png)", "See the page and a cat"),
        ("snake_case_name and 2 * 3 * 4", "snake_case_name and 2 * 3 * 4"),
        ("a\n---\nb", "a b"),
        ("", ""),
        (" \n\t", ""),
        ("bell\x07 and \ud800", "bell and"),
        ("**", "**"),
    ],
)
def test_markdown_leaves_no_marks(text: str, title: str) -> None:
    assert tidied(text) == title


def test_a_long_one_ends_at_a_word_with_an_ellipsis() -> None:
    title = tidied("word " * 100)
    assert title.endswith("word…") and len(title) <= 60
    assert tidied("x" * 300) == "x" * 59 + "…"
    assert tidied("a b" + "x" * 300) == "a b" + "x" * 56 + "…"


def test_a_long_chinese_one_ends_at_a_character() -> None:
    title = tidied("请解释一下递归，" * 20)
    assert title.endswith("…") and 55 <= len(title) <= 60 and "，…" not in title


def test_an_emoji_of_several_parts_is_not_cut_in_two() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    for before in range(52, 60):
        kept = tidied("字" * before + family + "字" * 60)
        assert kept == "字" * before + family + "字" * (len(kept) - before - 6) + "…" or kept == "字" * before + "…"


def test_it_takes_no_time_on_a_hostile_text() -> None:
    for text in ("`" * 50_000, "*" * 50_000, "[" * 50_000, "- " * 50_000, "~~~\n" * 20_000, "_a" * 40_000):
        assert len(tidied(text)) <= 60
