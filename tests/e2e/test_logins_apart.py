"""Two people's browsers at one app: what one does is not there for the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import AGAIN, OpenPage
from tests.e2e.test_images import TWO, answers, attach, attached, loads, say, settled, thumbnails
from tools.served import Served

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("app")
    app = Served(data, "--fake", "--auth", f"ann:{PASSWORD}", "--auth", f"ben:{PASSWORD}")
    yield app
    assert app.stop() == 0, app.output


def test_one_sees_ones_images_and_the_other_a_new_conversation(app: Served, open_page: OpenPage) -> None:
    def page_of(login: str, address: str) -> Page:
        return open_page(address, sign_in=(login, PASSWORD))

    ann = page_of("ann", app.url + "?tab=images")
    attach(ann, TWO)
    say(ann, "what are these?")
    expect(answers(ann).last).to_contain_text("2 images: 640x480, 100x50. what are these?")
    settled(ann)
    for number in range(2):
        loads(thumbnails(ann).nth(number))
    picture = thumbnails(ann).first.evaluate("image => image.src")
    assert "i=" in ann.url and ann.request.get(picture, max_retries=AGAIN).ok
    ben = page_of("ben", ann.url)
    expect(ben.locator("#image-chat")).to_contain_text("What do you see?")
    loads(ben.locator("#image-chat").get_by_role("img", name="Example icon").first)  # the samples are everybody's
    expect(ben.locator("#history-list .none")).to_be_attached()
    assert "i=" not in ben.url and ben.request.get(picture, max_retries=AGAIN).status == 403
    ann.get_by_label("Undo").last.click()
    expect(attached(ann)).to_have_count(2)
    loads(ann.locator("#image-prompt img").first)
