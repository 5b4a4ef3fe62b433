"""What a person does on the chat page, and what they see there."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect


def say(page: Page, text: str, label: str = "Message") -> None:
    box = page.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


def ask(page: Page, text: str, label: str = "Message") -> None:
    """Says it, and waits until it has been answered."""
    before = questions(page).count()
    say(page, text, label)
    # The bubble comes together with Stop: from then on, no Stop means that it is over.
    expect(questions(page)).to_have_count(before + 1)
    expect(page.locator("#stop")).to_be_hidden()


def answers(page: Page | Locator) -> Locator:
    return page.get_by_test_id("bot")


def questions(page: Page | Locator) -> Locator:
    return page.get_by_test_id("user")


def stop_button(page: Page, name: str = "Stop") -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def settled(page: Page) -> None:
    """Nothing is being answered: Send is there to be pressed, Stop is not."""
    expect(stop_button(page)).to_be_hidden()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def of_card(page: Page, model: str, name: str) -> Locator:
    """A button of a model's card on the models tab."""
    card = page.locator(".card", has=page.locator(f"#card-{model}"))
    return card.get_by_role("button", name=name, exact=True)
