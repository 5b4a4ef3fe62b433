"""What a model or a person wrote is shown as written, and comes back as written."""

from __future__ import annotations

import random
import time

import pytest
from markdown_it import MarkdownIt

from interface.render import closed, plain, show

UNTOUCHED = [
    "plain **Markdown** with a < b && c > d, 3 & 4, wow! [link](https://a.b)",
    "`<b>` and ``a ` <i>``",
    "```html\n<div>&amp;</div>\n```",
    "```html\n<div>unfinished",
    "- item\n\n  ```html\n  <div>\n  ```\n",
    "text\n\n    <indented code>\n\ntext",
    "~~~~\n```\n<b>\n~~~~",
    "$a < b$ and $$x < y$$ and \\(a < b\\) and \\[a & b \\\\[2pt] c\\]",
    "你好，世界！",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_code_formulas_and_plain_text_are_untouched(text: str) -> None:
    assert show(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>x</b>", "&#00060;b>x&#00060;/b>"),
        ("&lt;", "&#00038;lt;"),
        ("![x](http://e)", "&#00033;[x](http://e)"),
        ("it is $5 and $6", "it is &#00036;5 and &#00036;6"),
        ("a ` tick\n\n<b> ` another", "a ` tick\n\n&#00060;b> ` another"),
        ("1. item\n\n    <b>not code</b>", "1. item\n\n    &#00060;b>not code&#00060;/b>"),
        ("`code` <i>", "`code` &#00060;i>"),
        ("```\n<b>\n```\n<b>", "```\n<b>\n```\n&#00060;b>"),
        ("<!-- c -->", "&#00060;!-- c -->"),
        ("$a<b$ $$a<b$$ \\(a<b\\)", "$a&#00060;b$ $$a&#00060;b$$ \\(a&#00060;b\\)"),
        ("\\( <script>1</script> \\)", "\\( &#00060;script>1&#00060;/script> \\)"),
        # Openings are not searched for an end beyond the next one: many of them took ever longer.
        ("\\( ![a](u) \\(x\\)", "\\( &#00033;[a](u) \\(x\\)"),
        ("\\[ ![a](u) \\[x\\]", "\\[ &#00033;[a](u) \\[x\\]"),
        *(
            (f"{end}{end}<b> ![a](u)\n```\n<i>\n```", f"{end}{end}&#00060;b> &#00033;[a](u)\n```\n<i>\n```")
            for end in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
        ),
        ("<b>\r```\r<i>\r```\r\n<b>", "&#00060;b>\r```\r<i>\r```\r\n&#00060;b>"),
    ],
)
def test_markup_outside_code_is_written_out(text: str, shown: str) -> None:
    assert show(text) == shown and plain(shown) == text


def test_whatever_was_shown_comes_back() -> None:
    dice = random.Random(3)
    pieces = [
        "<b>",
        "&amp;",
        "![",
        "`",
        "```\n",
        "$",
        "\n\n",
        "    ",
        "词",
        "a",
        " ",
        "\\(",
        "\\)",
        "- ",
        "~~~",
        "\r\n",
    ]
    for _ in range(3000):
        text = "".join(dice.choices(pieces, k=dice.randint(0, 14)))
        assert plain(show(text)) == text, repr(text)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("```python\ndef f():\n    retu", "\n```"),
        ("~~~~\n```\n", "\n~~~~"),
        ("text\n````", "\n````"),
        ("```\ndone\n```", ""),
        ("- item\n\n  ```\n  code", ""),
        ("text `code", ""),
        ("", ""),
    ],
)
def test_what_stands_below_is_not_part_of_an_unfinished_code_block(text: str, end: str) -> None:
    assert closed(text) == text + end
    assert MarkdownIt().render(f"{closed(text)}\n\n*below*").endswith("<p><em>below</em></p>\n")


def test_a_long_reply_without_markup_is_not_even_parsed() -> None:
    text = "a line of words, 50% of it 词语\n" * 20_000
    began = time.perf_counter()
    assert show(text) is text
    assert time.perf_counter() - began < 1
