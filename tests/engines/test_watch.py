"""The memory watch: what it counts, that it forgets, and that it sleeps when nobody looks."""

from __future__ import annotations

import threading

import pytest

from configs.load import load_catalogue
from engines import watch as watch_module
from engines.memory import GIB, DeviceMemory, OtherProgram
from engines.planner import plan_load
from engines.probe import looked_at
from engines.status import Engaged, RunnerStatus
from engines.watch import KEPT, MemoryWatch, Sample
from interface.i18n import LANGS, Lang
from interface.memory_html import history_svg, memory_html

CARD = DeviceMemory(
    "card <8>",
    "cuda",
    8 * GIB,
    2 * GIB,
    32 * GIB,
    16 * GIB,
    (OtherProgram(7, "<game>", GIB), OtherProgram(8, "x", 9 * GIB)),
)
PLAN = plan_load(
    load_catalogue()["internlm2-chat-1_8b"], DeviceMemory("c", "cuda", 8 * GIB, 8 * GIB, 32 * GIB, 32 * GIB)
)


def watch_of(held: int = 3 * GIB) -> MemoryWatch:
    status = RunnerStatus((Engaged("m", 42, 5 * GIB, PLAN),), None, 0, 0)
    return MemoryWatch(lambda: status, lambda pids: CARD if pids == {42} else pytest.fail(), lambda pid, kind: held)


def test_what_is_ours_is_not_anothers_and_no_more_is_named_than_is_held() -> None:
    watch = watch_of()
    (sample,) = watch.samples()
    watch.close()
    assert (sample.taken, sample.ours, sample.others) == (6 * GIB, {"m": 3 * GIB}, 3 * GIB)
    assert [(one.name, one.bytes) for one in sample.named] == [("x", 3 * GIB)]


def test_where_the_driver_does_not_say_the_measured_load_counts() -> None:
    watch = watch_of(held=0)
    assert watch.samples()[0].ours == {"m": 5 * GIB}
    watch.close()


def test_it_looks_while_it_is_asked_and_keeps_no_more_than_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "EVERY", 0.0005)
    monkeypatch.setattr(watch_module, "ASLEEP_AFTER", 1.0)
    watch, others = watch_of(), {*threading.enumerate()}  # of another test, one may be about to end
    watch.samples()
    (thread,) = (one for one in threading.enumerate() if one.name == "memory-watch" and one not in others)
    while len(watch.samples()) < KEPT:
        thread.join(0.01)
    assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive(), "nobody asked"
    assert len(watch.samples()) == KEPT, "asked again, it wakes and has forgotten nothing but the oldest"
    watch.close()


def test_on_this_machine_programs_have_names_and_the_sum_is_the_whole() -> None:
    device = looked_at(frozenset())
    assert device.total >= device.free > 0
    if device.kind == "cpu":
        assert all(one.name and one.bytes for one in device.others)


@pytest.mark.parametrize("lang", LANGS)
def test_the_panel_is_escaped_and_says_in_a_table_what_it_draws(lang: Lang) -> None:
    text = memory_html([Sample(1.0, CARD, {"m": 3 * GIB})], {"m": PLAN}, {"m": "A & B"}, lang)
    assert "A &amp; B" in text and "card &lt;8&gt;" in text and "<game>" not in text
    table = text[text.index("<table>") :]
    assert table.count("<tr>") == 4 and "3.0 GiB" in table and "5.4 GiB" in table and "2.0 GiB" in table
    assert 'role="img" aria-label="' in text and text.count("<polygon") == 2


def test_history_has_a_hole_where_nobody_looked_and_forgets_what_is_older_than_it_shows() -> None:
    times = [0.0, 400.0, 401.0, 402.0, 500.0, 501.0]
    svg = history_svg([Sample(at, CARD, {"m": GIB}) for at in times], "en")
    assert svg.count("<polygon") == 4
