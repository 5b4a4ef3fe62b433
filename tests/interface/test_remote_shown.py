"""What a person sees of a model that is answered elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.load import load_catalogue, load_config
from configs.schema import Catalogue, ModelSpec, Remote
from engines.base import Usage
from engines.errors import ServerError
from engines.library import Library
from interface.api.errors import refusal, stated
from interface.bubbles import usage_line
from interface.desk import Desk
from interface.i18n import LANGS, Lang
from interface.memory import MemoryEvents
from interface.messages import explain
from interface.settings import who_answers
from interface.shelf import Shelf
from interface.terminal import get, models, plan

FAR = ModelSpec("far", "Far", "text", remote=Remote("http://gpu1:23333", model="m", key_env="KEY"))
REASONS: list[dict[str, Any]] = [
    {"reason": "no_key", "variable": "KEY"},
    *(
        {"reason": "unconnected", "why": why}
        for why in ("slow", "proxy", "unresolved", "tls", "refused", "unreachable")
    ),
    {"reason": "key", "status": 401, "variable": ""},
    {"reason": "unnamed"},
    {"reason": "model", "model": "m", "detail": "a, b"},
    {"reason": "busy", "seconds": None},
    {"reason": "busy", "seconds": 7},
    {"reason": "rejected", "status": 400, "detail": "too long"},
    {"reason": "broken", "status": 500, "detail": ""},
    {"reason": "malformed", "detail": ""},
    {"reason": "cut"},
    {"reason": "silent", "seconds": 60.0},
]


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("facts", REASONS, ids=lambda facts: "-".join(str(one) for one in facts.values()))
def test_every_failure_names_the_server_and_says_what_to_do(facts: dict[str, Any], lang: Lang) -> None:
    notice = explain(ServerError(server="gpu1:23333", **facts), lang)
    assert "gpu1:23333" in notice.body and notice.hint and "{" not in notice.line and notice.body == notice.body.strip()


def test_to_programs_it_is_a_bad_gateway_or_too_many_requests() -> None:
    assert stated(ServerError(server="gpu1", reason="cut"), "en")[0] == 502
    busy = refusal(ServerError(server="gpu1", reason="busy", seconds=7), "en")
    assert busy.status_code == 429 and busy.headers["retry-after"] == "7"


@pytest.mark.parametrize("lang", LANGS)
def test_the_line_under_an_answer(lang: Lang) -> None:
    counted, told = Usage(0, 0, 9, 0.1, 1.0, "stop", estimated=True), Usage(5, 0, 9, 0.1, 1.0, "stop")
    assert usage_line(counted, lang) != usage_line(told, lang) != ""
    assert usage_line(Usage(0, 0, 0, 0.0, 1.0, "cancelled"), lang) == ""


@pytest.mark.parametrize("lang", LANGS)
def test_nobody_is_told_that_nothing_leaves_the_computer(lang: Lang) -> None:
    assert "gpu1:23333" in who_answers(FAR, lang)


def test_the_models_tab_and_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = Library(load_config({"data": tmp_path}, {}), Catalogue((*load_catalogue().models, FAR)))
    desk = Desk.open(library)
    assert "gpu1:23333" in Shelf(desk).servers(FAR.remote, "en")  # type: ignore[arg-type]
    assert Shelf(desk).state("far") == "ready" and Shelf(desk).how("far", "en")
    assert "far" not in [id for _, id in MemoryEvents(desk).models()]
    desk.close()
    assert plan(library, "far", None, None, None, False, False, "en") == 0
    assert "Answered by gpu1:23333" in capsys.readouterr().out
    assert plan(library, "far", None, None, None, False, True, "en") == 0 and models(library, "en") == 0
    assert "elsewhere" in capsys.readouterr().out
    assert get(library, "far", "en") == 0 and "nothing is loaded here" in capsys.readouterr().out
