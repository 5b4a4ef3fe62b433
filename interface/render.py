"""Messages -> what Gradio's Chatbot shows, with everything a model or a person wrote visible as written.

The Chatbot drops raw HTML that it holds unsafe, and with it a reply that is nothing else; it fetches images from
anywhere, and takes any two dollars for a formula. So that markup is written as entities, outside code; a formula keeps
its dollars. The spelling with zeros is nobody else's; `plain` (and theme.py's script, for what is copied) undoes it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from markdown_it import MarkdownIt

from engines.base import ImagePart
from interface.i18n import Lang, t
from interface.messages import Notice
from interface.uploads import thumbnail_path

LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "$", "right": "$", "display": False},
]


ENTITIES = {char: f"&#{ord(char):05};" for char in "<&!$"}

_HTML = r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])"
_MARKUP = re.compile(_HTML + r"|!(?=\[)|\$")
_MARKUP_IN_FORMULA = re.compile(_HTML)
# A formula that holds another's beginning is none: else each beginning without an end is searched to the text's end.
_INLINE = re.compile(
    r"(?P<code>(?P<ticks>(?<!`)`+(?!`))(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`))"
    r"|\$\$.+?\$\$"
    r"|(?<!\\)\\\[(?:(?!(?<!\\)\\\[).)+?\\\]|(?<!\\)\\\((?:(?!(?<!\\)\\\().)+?\\\)"
    r"|\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d)",  # "$5 and $6" is none
    re.DOTALL,
)
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_BLOCKS = MarkdownIt("commonmark")


def show(text: str) -> str:
    """Markdown that stays Markdown, with HTML, entities, images and lone dollars as visible text."""
    if not _MARKUP.search(text):
        return text
    return "".join(part if is_code else _written_out(part) for is_code, part in _split_code(text))


def plain(text: str) -> str:
    """What `show` was given."""
    for char, entity in ENTITIES.items():
        text = text.replace(entity, char)
    return text


def closed(text: str) -> str:
    """The text with an unfinished code block ended, so that what is put below it is not part of the code."""
    last = _BLOCKS.parse(text + "\n\nbelow")[-1]
    return f"{text}\n{last.markup}" if last.type == "fence" else text


def _split_code(text: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces: code blocks, finished or not, and what lies between them."""
    lines = _LINE.findall(text)  # Python's own splitlines knows more line ends than Markdown
    done = 0
    for token in _BLOCKS.parse(text):
        if token.type in ("fence", "code_block") and token.map:
            first, last = token.map
            yield False, "".join(lines[done:first])
            yield True, "".join(lines[first:last])
            done = last
    yield False, "".join(lines[done:])


def _written_out(text: str) -> str:
    parts: list[str] = []
    position = 0
    for found in _INLINE.finditer(text):
        parts += [_as_entities(text[position : found.start()]), found[0] if found["code"] else _formula(found[0])]
        position = found.end()
    return "".join([*parts, _as_entities(text[position:])])


def _formula(text: str) -> str:
    return _MARKUP_IN_FORMULA.sub(lambda found: ENTITIES[found[0]], text)


def _as_entities(text: str) -> str:
    return _MARKUP.sub(lambda found: ENTITIES[found[0]], text)


def status_html(line: str) -> str:
    """A line about the answer, announced to screen readers when it changes."""
    return f'<div class="status" role="status">{html.escape(line)}</div>'


def notice_html(notice: Notice, details: str = "") -> str:
    """Something that a person should know before going on; `details` is HTML."""
    return (
        f'<div class="notice" role="alert"><strong>{html.escape(notice.opening)}</strong> '
        f"{html.escape(notice.body)} {html.escape(notice.hint)}{details}</div>"
    )


def images_html(images: Sequence[ImagePart], lang: Lang) -> str:
    """Thumbnails that lead to the whole images; page.js opens those on the page.

    Both are files of ours under their hashes, served by Gradio's own route from a folder that app.py names.
    """
    links = []
    for number, one in enumerate(images, 1):
        whole, small = (
            html.escape("gradio_api/file=" + quote(path.as_posix()))
            for path in (one.path, thumbnail_path(one.path.parent, one.sha256))
        )
        says = html.escape(t("vision.image", lang, number=number, width=one.width, height=one.height))
        links.append(
            f'<a class="picture" href="{whole}" target="_blank" title="{says}">'
            f'<img src="{small}" width="{one.width}" height="{one.height}" alt="{says}"></a>'
        )
    return f'<div class="pictures">{"".join(links)}</div>'
