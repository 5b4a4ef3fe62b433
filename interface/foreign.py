"""Chats in other programs' formats -> transcripts.

OpenAI's messages ({"messages": [{role, content}]}, a list of such, or the bare messages), and the conversations.json of
ChatGPT's export. What these formats have besides what was said is passed over.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from typing import Any

from engines.base import GenerationSettings
from engines.errors import ImportRejected
from interface.transcript import Entry, Picture, Transcript

TakeImage = Callable[[bytes, str], Picture]
"""An image's bytes and what to call it -> the stored image. Raises ImportRejected."""

TITLE_LENGTH = 60
LATEST = 4102444800.0


def transcripts(raw: Any, take: TakeImage) -> list[Transcript]:
    """The conversations in parsed JSON; model and settings are the importer's to fill in. Raises ImportRejected."""
    if isinstance(raw, dict):
        return [_conversation(raw, take, "")]
    if isinstance(raw, list) and raw and all(isinstance(one, dict) and "role" in one for one in raw):
        return [_conversation({"messages": raw}, take, "")]
    if isinstance(raw, list) and raw and all(isinstance(one, dict) for one in raw):
        return [_conversation(one, take, f"[{number}].") for number, one in enumerate(raw)]
    raise ImportRejected(reason="not_conversations")


def _conversation(raw: dict[str, Any], take: TakeImage, where: str) -> Transcript:
    if isinstance(raw.get("mapping"), dict):
        return _mapped(raw)
    if not isinstance(raw.get("messages"), list):
        raise ImportRejected(reason="not_conversations")
    now, entries, system = time.time(), [], []
    for number, one in enumerate(raw["messages"]):
        place = f"{where}messages[{number}]"
        role = one.get("role") if isinstance(one, dict) else None
        text, images = _content(one.get("content"), take, f"{place}.content") if isinstance(one, dict) else ("", ())
        if role in ("system", "developer"):
            system.append(text)
        elif role in ("user", "assistant"):
            if text or images:
                entries.append(Entry(len(entries) - 1 if entries else None, role, text, "complete", now, images=images))
        else:
            raise ImportRejected(reason="role", where=place, role=str(role))
    return _transcript(raw, entries, len(entries) - 1, "\n\n".join(system), now)


def _transcript(raw: dict[str, Any], entries: list[Entry], head: int, system: str, created: float) -> Transcript:
    title = raw.get("title")
    first = next((one.text for one in entries if one.role == "user"), "")
    title = " ".join((title if isinstance(title, str) and title.strip() else first).split())[:TITLE_LENGTH]
    updated = max([created, *(one.created for one in entries)])
    head_or_none = head if 0 <= head < len(entries) else None
    return Transcript(title, "", system, GenerationSettings(), created, updated, head_or_none, tuple(entries))


def _content(content: Any, take: TakeImage, where: str) -> tuple[str, tuple[Picture, ...]]:
    """A string, nothing, or a list of parts with texts and images."""
    if content is None or isinstance(content, str):
        return content or "", ()
    texts, images = [], []
    for number, part in enumerate(content if isinstance(content, list) else [content]):
        place = f"{where}[{number}]"
        match part:
            case str(text) | {"type": "text" | "input_text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                images.append(_image(url, take, place))
            case {"type": "image_url" | "input_image", "image_url": str(url)}:
                images.append(_image(url, take, place))
            case _:
                raise ImportRejected(reason="wrong_value", where=place)
    return "\n".join(texts), tuple(images)


def _image(url: str, take: TakeImage, where: str) -> Picture:
    """Of a data URL; nothing is ever fetched."""
    start, comma, data = url.partition(",")
    if not start.startswith("data:"):
        raise ImportRejected(reason="remote_image", where=where)
    if not comma or not start.endswith(";base64"):
        raise ImportRejected(reason="wrong_value", where=where)
    try:
        return take(base64.b64decode(data, validate=True), where)
    except binascii.Error:
        raise ImportRejected(reason="wrong_value", where=where) from None


# -- ChatGPT's export -------------------------------------------------------------------------------------------------


def _mapped(raw: dict[str, Any]) -> Transcript:
    """A tree of nodes by id: what people and the model said in it, under the nearest such message above."""
    nodes = {id: node for id, node in raw["mapping"].items() if isinstance(node, dict)}
    above_of = {id: one if isinstance(one := node.get("parent"), str) else "" for id, node in nodes.items()}
    begun = _time(raw.get("create_time"), time.time())
    entries: list[Entry] = []
    place: dict[str, int | None] = {}
    waiting = [id for id in nodes if above_of[id] not in nodes][::-1]
    while waiting:
        id = waiting.pop()
        if id in place:  # a tree that is none
            continue
        node = nodes[id]
        above = place.get(above_of[id])
        entry = _node(node.get("message"), above, begun)
        place[id] = above if entry is None else len(entries)
        entries += [entry] if entry else []
        children = node.get("children")
        below = children[::-1] if isinstance(children, list) else []
        waiting += [one for one in below if isinstance(one, str) and one in nodes]
    head = place.get(str(raw.get("current_node")))
    return _transcript(raw, entries, len(entries) - 1 if head is None else head, "", begun)


def _node(message: Any, parent: int | None, begun: float) -> Entry | None:
    """Tools, reasoning and hidden prompts are no part of what was said."""
    match message:
        case {"author": {"role": "user" | "assistant" as role}, "content": {"parts": list(parts)}}:
            text = "\n".join(one for one in parts if isinstance(one, str))
            if text.strip():
                return Entry(parent, role, text, "complete", _time(message.get("create_time"), begun))
    return None


def _time(value: Any, otherwise: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= LATEST else otherwise
