"""What a doctor says of a real card: that it and torch get on."""

from __future__ import annotations

import pytest

from engines import probe
from engines.checkup import card
from tests.findings import briefly

pytestmark = pytest.mark.gpu


def test_a_card_that_is_well() -> None:
    driver = probe.driver()
    assert briefly(card.card(driver, {})) == [("card", "ok", "card_ok")]
    assert driver.cards[0].capability >= (5, 0) and driver.cards[0].total > 2**30
    said = card.import_torch(120)
    assert said.available and briefly(card.torch(said, driver, 120))[0] == ("torch", "ok", "torch_ok")
    assert briefly(card.memory(probe.device_memory()))[0][0] == "card.memory"
