"""Language and colours of the page: they change at once, and the browser remembers them.

The choosing itself is opening.js: nothing is reloaded, what stands in a box stays there, and answers go on growing.
What the server has worded is drawn anew by those who drew it (`Talk.redraw`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import gradio as gr

from interface.chat import Talk
from interface.desk import QUIET, Desk, label
from interface.door_page import LOGOUT

LANGUAGES = (("English", "en"), ("中文", "zh"))
"""Each in its own words: who cannot read the page finds it."""
THEMES = ("system", "light", "dark")

# A form of the page's own: the browser goes where the answer says, and sends our cookie.
SIGN_OUT = """() => {
  const form = Object.assign(document.createElement("form"), { method: "post", action: "LOGOUT" });
  document.body.append(form);
  form.submit();
}""".replace("LOGOUT", LOGOUT)


@dataclass(frozen=True, slots=True)
class Preferences:
    """The small window at the right end of the page's header, and the button that opens it."""

    button: gr.Button
    language: gr.Radio
    theme: gr.Radio
    shortcuts: gr.Button
    sign_out: gr.Button


def build(desk: Desk, login: bool) -> Preferences:
    """Draws it; with a way out where there is a `login`."""
    button = gr.Button(label("preferences.title"), elem_id="preferences-button", min_width=40, scale=0)
    with gr.Column(elem_id="preferences"):
        language = gr.Radio(
            list(LANGUAGES), label=label("preferences.language"), elem_id="language",
            visible=desk.config.interface.lang == "auto",
        )  # fmt: skip
        themes = [(label(f"preferences.theme_{one}"), one) for one in THEMES]
        theme = gr.Radio(themes, label=label("preferences.theme"), elem_id="theme")
        shortcuts = gr.Button(label("preferences.shortcuts"), elem_id="shortcuts-button", size="sm")
        sign_out = gr.Button(label("login.sign_out"), elem_id="sign-out", size="sm", visible=login)
    return Preferences(button, language, theme, shortcuts, sign_out)


def wire(preferences: Preferences, talks: Iterable[Talk], demo: gr.Blocks) -> None:
    """A choice takes effect in the browser; then the server's words are drawn anew."""
    demo.load(None, None, [preferences.language, preferences.theme], js="() => desk.preferences()", **QUIET)
    preferences.theme.input(None, preferences.theme, None, js="(theme) => desk.paint(theme)", **QUIET)
    preferences.shortcuts.click(None, None, None, js="() => desk.shortcuts()", **QUIET)
    preferences.sign_out.click(None, None, None, js=SIGN_OUT, **QUIET)
    switched = preferences.language.input(None, preferences.language, None, js="(lang) => desk.speak(lang)", **QUIET)
    for talk in talks:
        for redraw in talk.redraw:
            redraw(switched)
