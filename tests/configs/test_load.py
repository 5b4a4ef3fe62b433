"""Configuration is parsed once, in the right order, and says so when it cannot be."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from configs.errors import ConfigError
from configs.load import ROOT, load_catalogue, load_config
from configs.schema import DTYPE_BYTES, AppConfig, VisionTower
from engines.need import weight_bytes


def test_the_shipped_files_are_sound() -> None:
    config, catalogue = load_config({}, {}), load_catalogue()
    assert config.data == ROOT / "data" and config.models.model in catalogue
    assert set(catalogue.ids) == {"smollm2-135m-instruct", "internlm2-chat-1_8b", "internvl2-2b", "internvl2-2b-awq"}


def test_app_toml_names_every_setting_with_its_default() -> None:
    shipped = load_config({}, {})
    for section in (shipped.server, shipped.interface, shipped.models, shipped.limits, shipped.memory):
        assert section == type(section)(), "the file and the schema's defaults agree"
    text = (ROOT / "configs" / "app.toml").read_text(encoding="utf-8")
    for key in keys():
        assert f"\n{key} = " in text, key


def keys() -> list[str]:
    return [field.name for cls in get_type_hints(AppConfig).values() if is_dataclass(cls) for field in fields(cls)]


def test_keys_are_unique_over_all_sections() -> None:
    assert len(keys()) == len(set(keys()))


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text('data = "d"\n[server]\nport = 1\nhost = "a"\n', encoding="utf-8")
    environ = {"SHUSHENG_PORT": "2", "SHUSHENG_SOURCES": "huggingface, pypi", "SHUSHENG_BROWSER": "false", "HOME": "/x"}
    config = load_config({"port": 3, "host": None}, environ, file)
    assert (config.server.port, config.server.host, config.server.browser) == (3, "a", False)
    assert config.models.sources == ("huggingface", "pypi")
    assert load_config({}, environ, file).server.port == 2 and load_config({}, {}, file).server.port == 1


@pytest.mark.parametrize(
    ("text", "environ", "code", "facts"),
    [
        ("[server]\nprot = 1", {}, "config_unknown_key", {"name": "prot", "nearest": "port"}),
        ("[sevrer]\nport = 1", {}, "config_unknown_key", {"name": "sevrer", "nearest": "server"}),
        ("", {"SHUSHENG_PROT": "1"}, "config_unknown_variable", {"nearest": "SHUSHENG_PORT"}),
        ("[server]\nport = 99999", {}, "config_value", {"where": "server.port", "value": 99999}),
        ("", {"SHUSHENG_PORT": "abc"}, "config_value", {"where": "server.port", "value": "abc"}),
        ("[server\n", {}, "config_syntax", {"file": "app.toml"}),
        ('[interface]\nlang = "fr"', {}, "config_value", {"where": "interface.lang"}),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, text: str, environ: dict[str, str], code: str, facts: dict[str, object]
) -> None:
    file = tmp_path / "app.toml"
    file.write_text(f'data = "d"\n{text}\n', encoding="utf-8")
    with pytest.raises(ConfigError) as wrong:
        load_config({}, environ, file)
    assert wrong.value.code == code and facts.items() <= wrong.value.facts.items()


@pytest.mark.parametrize("spec", load_catalogue().models, ids=lambda spec: spec.id)
def test_the_catalogue_adds_up(spec: object) -> None:
    """The parameter count follows from the geometry, and a bfloat16 model's download from the count."""
    shape = spec.architecture  # type: ignore[attr-defined]
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    embeddings = (1 if spec.demo else 2) * shape.vocab * shape.hidden  # type: ignore[attr-defined]  SmolLM2 ties them
    assert shape.parameters == shape.layers * layer + embeddings + shape.hidden
    if spec.vision is not None:  # type: ignore[attr-defined]
        assert spec.vision.parameters == tower_parameters(spec.vision, shape.hidden)  # type: ignore[attr-defined]
        assert spec.download == pytest.approx(weight_bytes(spec, 2), rel=0.01)  # type: ignore[arg-type, attr-defined]
    elif spec.dtype == "bfloat16":  # type: ignore[attr-defined]
        assert spec.download == pytest.approx(shape.parameters * DTYPE_BYTES["bfloat16"], rel=0.01)  # type: ignore[attr-defined]


def tower_parameters(tower: VisionTower, decoder: int) -> int:
    """Embeddings of patches, class and places; layers with biases and two scales; the projector behind four patches."""
    hidden, patches = tower.hidden, tower.patches_per_tile
    embeddings = 3 * 14 * 14 * hidden + hidden + hidden + patches * hidden
    attention, mlp = 4 * hidden * hidden + 4 * hidden, 2 * hidden * tower.intermediate + hidden + tower.intermediate
    layers = tower.layers * (attention + mlp + 4 * hidden + 2 * hidden)
    projector = 2 * 4 * hidden + 4 * hidden * decoder + decoder + decoder * decoder + decoder
    return embeddings + layers + projector


def test_a_secret_of_the_wrong_kind_is_not_said(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text('data = "data"\n[server]\nauth = "ann:swordfish7"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as wrong:
        load_config({}, {}, file)
    assert "swordfish7" not in str(wrong.value) and "auth" in str(wrong.value)
