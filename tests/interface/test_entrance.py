"""Who is let in, how often a password may be tried, when a session ends: with a clock of the tests' own."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import AppConfig
from interface.door import wanted
from interface.entrance import Entrance, kept_keys, reachable
from interface.i18n import LANGS
from interface.logins import LETTERS, Login, Passwords, generated, given, readable_by_others
from interface.messages import explain
from interface.sessions import MOST, Sessions
from interface.throttle import BURST, EVERY, FREE, LONGEST, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- the throttle -----------------------------------------------------------------------------------------------------


def test_wrong_tries_of_one_sender_come_ever_more_slowly() -> None:
    clock = Clock()
    throttle, waits = Throttle(clock), []
    for _ in range(16):
        clock.now += 2 * EVERY  # the budget of all is no matter here
        while wait := throttle.admit("a"):
            waits.append(wait)
            clock.now += wait
    assert waits == sorted(waits) and waits[-1] == LONGEST - 2 * EVERY
    assert len(waits) <= 16 - FREE


def test_one_sender_without_pause_gets_about_one_try_a_minute() -> None:
    clock = Clock()
    throttle, tries = Throttle(clock), 0
    for _ in range(3600 * 10):
        clock.now += 0.1
        tries += throttle.admit("a") == 0
    assert tries < 75


def test_many_senders_together_get_no_more_than_the_budget() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    tries = [throttle.admit(f"sender {n}") for n in range(1000)]
    assert tries.count(0) == BURST and max(tries) <= EVERY
    for n in range(1000):
        clock.now += EVERY / 10
        tries.append(throttle.admit(f"another {n}"))
    assert tries.count(0) <= BURST + 1000 / 10 + 1


def test_who_waits_as_long_as_told_is_admitted() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(50):
        throttle.admit("a")
        clock.now += 0.01
    clock.now += throttle.admit("a")
    assert throttle.admit("a") == 0
    throttle.succeeded("a")
    clock.now += EVERY
    assert throttle.admit("a") == 0, "a right password costs no delay"


def test_ones_own_login_buys_no_guesses_at_anothers() -> None:
    clock = Clock()
    throttle, guesses = Throttle(clock), 0
    for _ in range(600):
        clock.now += EVERY
        if throttle.admit("a") == 0:
            throttle.succeeded("a")
        clock.now += EVERY
        guesses += throttle.admit("a") == 0
    assert guesses < 30


def test_a_try_counts_before_it_is_compared() -> None:
    throttle = Throttle(Clock())
    assert [throttle.admit("a") == 0 for _ in range(100)].count(True) <= BURST


def test_senders_are_forgotten() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for n in range(5000):
        clock.now += EVERY
        throttle.admit(str(n))
    assert len(throttle._senders) <= 901
    for _ in range(20):
        throttle.admit("a")
    clock.now += 3600
    assert [throttle.admit("a") for _ in range(FREE)] == [0] * FREE


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_ends_when_it_is_idle_when_it_is_old_and_at_sign_out() -> None:
    clock = Clock()
    sessions = Sessions(idle=100, lifetime=1000, clock=clock)
    idle, used, closed = (sessions.open("ann") for _ in range(3))
    sessions.close(closed)
    assert [sessions.login(one) for one in (idle, used, closed, "", "x")] == ["ann", "ann", "", "", ""]
    for _ in range(9):
        clock.now += 99
        assert sessions.login(used) == "ann"
    assert sessions.login(idle) == ""
    clock.now += 99 + 99
    assert sessions.login(used) == ""


def test_sessions_are_bounded_and_only_hashes_are_kept() -> None:
    clock = Clock()
    sessions = Sessions(100, 1000, clock)
    tokens = []
    for _ in range(MOST + 20):
        clock.now += 0.1
        tokens.append(sessions.open("ann"))
    assert sessions.login(tokens[0]) == "" and sessions.login(tokens[-1]) == "ann"
    assert len(sessions._open) == MOST and len(set(tokens)) == len(tokens) and len(tokens[0]) >= 43
    assert not any(token in repr(sessions._open) for token in tokens)


# -- logins -----------------------------------------------------------------------------------------------------------


def test_passwords_are_told_apart() -> None:
    passwords = Passwords(
        [Login("ann", "correct horse"), Login("书生", "p\u00e4ssw\u00f6rter"), Login("d", "a:b:c: d ")]
    )
    assert passwords.login("ann", "correct horse") == "ann" == passwords.login(" ann ", "correct horse")
    assert passwords.login("书生", "pa\u0308sswo\u0308rter") == "书生", "however a keyboard composes it"
    assert passwords.login("d", "a:b:c: d ") == "d"
    for name, password in (
        ("ann", "correct hors"),
        ("ann", ""),
        ("bob", "correct horse"),
        ("", ""),
        ("ann", "a:b:c: d "),
    ):
        assert passwords.login(name, password) == ""
    assert b"correct horse" not in repr(vars(passwords)).encode()


def test_a_generated_password_has_80_bits_and_can_be_read_aloud() -> None:
    made = {generated().password for _ in range(200)}
    assert len(made) == 200 and len(set(LETTERS)) == 32
    for password in made:
        assert len(password.replace("-", "")) * 5 >= 80 and set(password) <= {*LETTERS, "-"}


def test_no_secret_is_in_a_repr() -> None:
    config = load_config({"auth": ["ann:correct horse"], "api_keys": ["ann:KEY-OF-ANN"], "data": Path("/x")}, {})
    shown = (
        repr(config)
        + repr(Login("ann", "correct horse"))
        + repr(Entrance((Login("a", "correct horse"),), ("KEY-OF-ANN",)))
    )
    assert "correct horse" not in shown and "KEY-OF-ANN" not in shown


def test_logins_come_from_entries_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "logins.txt"
    file.write_text("\ufeff# ours\n\nben:battery staple\n  # cy:commented out\n", encoding="utf-8")
    assert given(["ann:correct:horse"], file) == (Login("ann", "correct:horse"), Login("ben", "battery staple"))
    file.chmod(0o644)
    assert readable_by_others(file)
    file.chmod(0o600)
    assert not readable_by_others(file)


@pytest.mark.parametrize(
    ("entries", "text", "code"),
    [
        (["secretsecret"], None, "login_malformed"),
        ([":secretsecret"], None, "login_malformed"),
        (["a\x1bb:secretsecret"], None, "login_malformed"),
        (["x" * 65 + ":secretsecret"], None, "login_malformed"),
        (["ann:short"], None, "login_password"),
        (["ann:"], None, "login_password"),
        (["ann:" + "x" * 257], None, "login_password"),
        (["ann:secretsecret", "ann:secretsecre2"], None, "login_twice"),
        (["ann:secretsecret"], "ann:secretsecret", "login_twice"),
        ([], "", "login_file_empty"),
        ([], "# nobody\n", "login_file_empty"),
        ([], "ann:secretsecret\nsecretsecret\n", "login_malformed"),
        ([], "\udcff", "login_file_unreadable"),
        ([], None, "login_file_unreadable"),
    ],
)
def test_logins_that_cannot_be_used_are_refused_without_being_said(
    tmp_path: Path, entries: list[str], text: str | None, code: str
) -> None:
    file = tmp_path / "logins.txt"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as wrong:
        given(entries, file if text is not None or not entries else None)
    assert wrong.value.code == code
    for lang in LANGS:
        line = explain(wrong.value, lang).line
        assert "secretsecret" not in line and "{" not in line


# -- whether a login is needed ----------------------------------------------------------------------------------------


def config_of(data: Path, **overrides: object) -> AppConfig:
    return load_config({"data": data, **overrides}, {})


@pytest.mark.parametrize(
    ("host", "needed"),
    [("127.0.0.1", False), ("127.0.0.2", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
     ("192.0.2.7", True), ("box.example", True)],
)  # fmt: skip
def test_a_host_that_others_reach_needs_a_login(tmp_path: Path, host: str, needed: bool) -> None:
    config = config_of(tmp_path, host=host)
    assert reachable(config.server) == needed
    entrance = Entrance.of(config, no_auth=False)
    assert bool(entrance.made) == needed and bool(entrance.logins) == needed == bool(entrance.keys)


def test_sharing_needs_a_login_which_is_said_in_both_languages(tmp_path: Path) -> None:
    config = config_of(tmp_path, share=True)
    entrance = Entrance.of(config, no_auth=False)
    assert entrance.made is not None
    said = entrance.lines(config, "en")
    assert sum(entrance.made.password in line for line in said) == 2
    assert any("密码" in line for line in said) and any("password" in line for line in said)
    assert sum(entrance.keys[0].partition(":")[2] in line for line in said) == 1
    assert Entrance.of(config, no_auth=False).made != entrance.made
    assert not list(tmp_path.iterdir()), "made up for this start, and kept nowhere"


def test_without_a_login_only_if_that_was_typed(tmp_path: Path) -> None:
    config = config_of(tmp_path, host="0.0.0.0")
    entrance = Entrance.of(config, no_auth=True)
    assert not entrance.logins and len(entrance.lines(config, "en")) == 2
    assert Entrance.of(config_of(tmp_path), no_auth=True).lines(config_of(tmp_path), "en") == []
    with pytest.raises(ConfigError) as both:
        Entrance.of(config_of(tmp_path, auth=["ann:correct horse"]), no_auth=True)
    assert both.value.code == "login_contradiction"


def test_each_given_login_has_a_key_that_stays(tmp_path: Path) -> None:
    config = config_of(tmp_path, auth=["ann:correct horse", "ben:battery staple"])
    entrance = Entrance.of(config, no_auth=False)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Entrance.of(config, no_auth=False).keys == entrance.keys
    assert [key.rpartition(":")[0] for key in entrance.keys] == ["ann", "ben"]
    said = " ".join(entrance.lines(config, "en"))
    assert str(file) in said and "correct horse" not in said and "sk-" not in said
    alone = kept_keys(file, [Login("ben", "battery staple")])
    assert alone == entrance.keys[1:] and "ann" not in file.read_text(encoding="utf-8")
    file.write_text("", encoding="utf-8")
    assert kept_keys(file, [Login("ben", "battery staple")]) != alone


def test_configured_keys_are_the_only_ones(tmp_path: Path) -> None:
    config = config_of(tmp_path, auth=["ann:correct horse"], api_keys=["prog:KEY"])
    assert Entrance.of(config, no_auth=False).keys == ("prog:KEY",) and not list(tmp_path.iterdir())
    config = replace(config, server=replace(config.server, auth=()))
    assert Entrance.of(config, no_auth=False).keys == ("prog:KEY",)


@pytest.mark.parametrize(
    ("address", "leads"),
    [
        ("/", "/"), ("/?c=abc&tab=images", "/?c=abc&tab=images"), ("/?q=秋天", "/?q=秋天"), ("/a/b-c.d", "/a/b-c.d"),
        ("//evil.example", "/"), ("https://evil.example", "/"), ("/\\evil.example", "/"), ("\\\\evil", "/"),
        ("/../other", "/"), ("/%2e%2e/other", "/"), ("/a/../../b", "/"), ("/.hidden", "/"), ("javascript:x", "/"),
        ("/?a\r\nset-cookie: x=y", "/"), ("/ x", "/"), ("", "/"), ("/?" + "x" * 5000, "/"),
        ("/" + "a" * 1990 + "!", "/"),
    ],
)  # fmt: skip
def test_one_lands_in_this_app(address: str, leads: str) -> None:
    assert wanted(address) == leads
