"""The whole way to a model elsewhere: an app whose server is our own API, with the scripted engine behind it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image

from configs.errors import ConfigError
from configs.load import load_catalogue, load_config
from engines.base import GenerationSettings, Message
from engines.errors import ServerError
from engines.job import Delta, Job
from engines.library import Library
from interface.desk import Desk
from interface.messages import explain
from tests.app.test_api import TEXT, VISION, ask, data_url, question
from tests.app.test_api_held import Held
from tests.app.test_http import until
from tests.engines.test_remote import closed_port
from tests.peer import Peer, Talk
from tools.served import Served

FAR = "far"
LONG = GenerationSettings(max_new_tokens=30_000, repetition_penalty=1.0, top_k=0)


def entry(*urls: str, **more: str) -> str:
    """A person's own list with one model, which is elsewhere."""
    fields = "".join(f'{name} = "{value}"\n' for name, value in more.items())
    return f'[[models]]\nid = "{FAR}"\ntitle = "Far"\nkind = "vision"\n[models.remote]\nurls = {list(urls)}\n{fields}'


Open = Callable[..., Desk]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Open]:
    """An app's desk, whose models are its own but for one that is elsewhere."""
    desks: list[Desk] = []

    def one(*urls: str, **more: str) -> Desk:
        data = tmp_path / "front"
        data.mkdir()
        (data / "models.toml").write_text(entry(*urls, **more), encoding="utf-8")
        desks.append(Desk.open(Library(load_config({"data": data, "offline": True}, {}), load_catalogue())))
        return desks[-1]

    yield one
    for desk in desks:
        desk.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "peer", keys=("front:s3cret",))
    yield held
    held.close()


def submit(desk: Desk, text: str) -> Job:
    return desk.runner.submit(FAR, [Message.of("user", text)], LONG)


def said(job: Job) -> str:
    return "".join(event.text for event in job if isinstance(event, Delta))


def test_questions_side_by_side_images_cancel_and_a_key(
    front: Open, peer: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_KEY", "s3cret")
    desk = front(peer.url, model=VISION, key_env="PEER_KEY")
    assert said(submit(desk, "hello there")) == "hello there "
    (engaged,) = desk.runner.status().engaged
    assert engaged.memory == 0 and not desk.runner.status().residents and not desk.memory.samples()[-1].ours

    picture = desk.config.data / "uploads" / "x.png"
    picture.parent.mkdir(exist_ok=True)
    Image.new("RGB", (30, 20), "teal").save(picture)
    own = desk.of(None)
    store, answers = own.store, own.answers
    conversation = store.create(FAR, "", LONG, "vision")
    answers.ask(conversation, "what is it?", (desk.uploads.accept(picture),))
    until(lambda: answers.of(conversation) is None)
    reply = store.path(conversation)[-1]
    assert reply.text == "1 image: 30x20. what is it? " and reply.status == "complete"
    assert reply.usage is not None and not reply.usage.estimated and reply.usage.new_tokens == 6

    one = submit(desk, "fake: words=100000 delay=0.01")
    next(event for event in one if isinstance(event, Delta))
    one.cancel()
    assert one.result().reason == "cancelled"  # type: ignore[union-attr]
    until(lambda: peer.idle)
    assert said(submit(desk, "still here?")) == "still here? "

    settings = GenerationSettings(max_new_tokens=30_000, repetition_penalty=1.1, top_k=5)
    begun = [Message.of("user", "one two three"), Message.of("assistant", "one ")]
    assert said(desk.runner.submit(FAR, begun, settings)) == "two three ", "it goes on, with settings beyond OpenAI's"
    log = (tmp_path / "front" / "logs" / "engine.log").read_text(encoding="utf-8")
    assert "s3cret" not in log and "Traceback" not in log


def test_one_refusal_does_not_end_the_answers_beside_it(front: Open) -> None:
    def script(talk: Talk) -> None:
        text = talk.server.asked[-1][1]["messages"][-1]["content"]
        if text == "no":
            return talk.reply(429, {}, retry_after="3")
        talk.sse()
        talk.say("slow ")
        until(lambda: len(talk.server.asked) == 3)
        talk.say("answer", finish="stop")

    server = Peer(script)
    desk = front(server.url)
    slow = submit(desk, "yes")
    next(event for event in slow if isinstance(event, Delta))
    refused = submit(desk, "no")
    with pytest.raises(ServerError) as caught:
        refused.result()
    assert caught.value.facts["seconds"] == 3
    pid = desk.runner.status().engaged[0].pid
    assert said(submit(desk, "yes")) == said(slow) == "slow answer"
    assert desk.runner.status().engaged[0].pid == pid
    server.close()


def test_the_guard_has_nothing_to_plan_and_the_list_is_the_persons_own(front: Open) -> None:
    desk = front(f"http://{closed_port()}")
    plan = desk.library.plan(FAR)
    assert plan.verdict == "load" and plan.need.total == 0 and [one.code for one in plan.reasons] == ["remote"]
    with pytest.raises(ServerError) as caught:
        submit(desk, "hello").result()
    assert caught.value.facts["why"] == "refused"
    until(lambda: [one.answers for one in desk.library.reach.of(desk.library.spec(FAR).remote)] == [False])  # type: ignore[arg-type]
    own = desk.config.data / "models.toml"
    for wrong in (entry("http://gpu1:1").replace(FAR, TEXT), entry("http://me:s3cret@gpu1"), entry()):
        own.write_text(wrong, encoding="utf-8")
        with pytest.raises(ConfigError) as failed:
            Library(desk.config, load_catalogue())
        assert "s3cret" not in explain(failed.value, "en").line


def test_a_server_is_added_by_its_address(front: Open, peer: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = front("http://gpu1:23333")
    with pytest.raises(ServerError) as caught:
        desk.library.add(peer.url)
    assert caught.value.facts["reason"] == "key"
    server = Peer(lambda talk: talk.reply(500, {}))
    spec = desk.library.add(f" http://{server.name}/ ")
    assert spec.kind == "vision" and spec.remote is not None and spec.remote.model == VISION and spec.added
    assert spec.defaults == load_catalogue()[VISION].defaults
    again = Library(desk.config, load_catalogue())
    assert again.spec(spec.id) == spec
    again.remove(spec.id)
    assert spec.id not in Library(desk.config, load_catalogue()).catalogue
    server.close()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Two apps, each a process of its own."""
    apps = [
        Served(tmp_path_factory.mktemp(name), "--fake", environ={"FAKE_LOAD": "fake: parallel=4"})
        for name in ("one", "two")
    ]
    yield apps
    for app in apps:
        if app.process.poll() is None:
            app.stop()


@pytest.mark.slow
def test_a_replica_killed_under_load_is_named_and_the_other_answers(replicas: list[Served], tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(entry(*(one.url + "v1" for one in replicas), model=VISION), encoding="utf-8")
    app = Served(tmp_path, "--model", FAR)
    client = OpenAI(base_url=app.url + "v1", api_key="none", max_retries=0)

    begun = threading.Barrier(5)

    def one(n: int) -> tuple[str, str]:
        said, fields = "", {"model": FAR, "max_tokens": 30000, "temperature": 0, "stream": True}
        try:
            for chunk in client.chat.completions.create(
                messages=question(f"fake: words={3000 + n} delay=0.02"), **fields
            ):
                before, said = said, said + (chunk.choices[0].delta.content or "")
                if said and not before:
                    begun.wait(20)
        except openai.APIError as error:
            return said, error.message
        raise AssertionError("it was killed")

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(one, n) for n in range(4)]
        begun.wait(20)
        replicas[0].process.send_signal(signal.SIGKILL)
        replicas[0].process.wait(10)
        ended = [one.result() for one in waiting]
    dead, alive = (httpx.URL(one.url).netloc.decode() for one in replicas)
    assert all(said.startswith("word0 ") and dead in error for said, error in ended), ended
    answer = ask(client, "still here?", model=FAR)
    assert answer.choices[0].message.content == "still here? "
    seen = ask(client, "", model=FAR, messages=question("and this?", data_url()))
    assert seen.choices[0].message.content == "1 image: 30x20. and this? "
    listed = {one.id for one in client.models.list().data}
    assert FAR in listed
    replicas[1].process.send_signal(signal.SIGKILL)
    replicas[1].process.wait(10)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "anybody?", model=FAR)
    assert caught.value.status_code == 502 and dead in caught.value.message and alive in caught.value.message
    client.close()
    assert app.stop() == 0
    assert "Traceback" not in app.output + (app.data / "logs" / "app.log").read_text(encoding="utf-8")
