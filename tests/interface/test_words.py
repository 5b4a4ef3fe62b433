"""Every sentence exists in both languages, and every error has words."""

from __future__ import annotations

import ast
import json
import re
import string
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_catalogue
from engines import errors
from engines.memory import GIB, DeviceMemory
from engines.planner import plan_load
from interface.i18n import LANGS, Lang, bytes_text, lang_of, seconds_text, t, texts
from interface.messages import explain, plan_dict, plan_notes, record

ROOT = Path(__file__).resolve().parents[2]


def test_both_languages_say_the_same_things() -> None:
    assert texts("en").keys() == texts("zh").keys()
    for key, english in texts("en").items():
        assert facts_of(english) == facts_of(texts("zh")[key]), key


def facts_of(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_chinese_is_chinese() -> None:
    foreign = {"chat.top_p", "models.source_huggingface", "models.source_pypi"}
    for key, text in texts("zh").items():
        words = re.sub(r"\{[^}]*\}", "", text)
        assert not words or key in foreign or re.search(r"[\u4e00-\u9fff]|[？：，。]", words), key


def sources(*folders: str) -> list[ast.AST]:
    paths = [ROOT / "launch.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def key_patterns() -> set[str]:
    """What the code asks for, as regular expressions: of an f-string, what is filled in may be any one word.

    A key that is passed on before it is asked for is found by its shape: "section.name".
    """
    sections = {key.split(".")[0] for key in texts("en")}
    patterns: set[str] = set()
    for node in sources("interface"):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            patterns.add(re.escape(node.value))
        elif isinstance(node, ast.JoinedStr):
            parts = (re.escape(one.value) if isinstance(one, ast.Constant) else r"\w+" for one in node.values)
            patterns.add("".join(parts))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.left, ast.Constant):
            patterns.add(re.escape(str(node.left.value)) + r"\w+")
    keys = {one for one in patterns if re.fullmatch(r"\w+\\\.[\w\\.+]+", one) and one.split("\\.")[0] in sections}
    return {one for one in keys if not one.endswith((".", "_"))}  # the beginning of an f-string


def test_no_sentence_is_missing() -> None:
    patterns = key_patterns()
    missing = {one for one in patterns if not any(re.fullmatch(one, key) for key in texts("en"))}
    # Files, and what OpenAI calls its objects.
    files = ("app.log", "app.toml", "models.toml", "preferences.json")
    no_sentences = {re.escape(name) for name in (*files, "chat.completion", "chat.completion.chunk")}
    assert len(patterns) > 60 and missing == no_sentences


def test_every_sentence_is_said_somewhere() -> None:
    patterns = key_patterns()
    unused = {key for key in texts("en") if not any(re.fullmatch(one, key) for one in patterns)}
    assert unused == set()


def test_no_code_fact_or_stage_has_words_that_nothing_can_ask_for() -> None:
    """The words whose last part is a code: the code stands somewhere in the sources."""
    said = {
        node.value for node in sources("interface", "engines", "configs")
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }  # fmt: skip
    for key in texts("en"):
        section, name, *_ = key.split(".")
        if section in ("error", "plan", "problem", "reason", "stage", "storage", "import"):
            assert key in said or name in said or name.partition("_")[2] in said, key


def concrete(cls: type) -> list[type]:
    found = [one for sub in cls.__subclasses__() for one in concrete(sub)]
    return found or [cls]


FACTS: dict[str, dict[str, object]] = {
    "prompt_too_long": {"tokens": 9000, "limit": 8192},
    "too_many_images": {"images": 20, "limit": 13},
    "setting_out_of_range": {"name": "temperature", "value": 3.0, "low": 0.0, "high": 2.0},
    "still_answering": {},
    "conversation_moved": {},
    "image_rejected": {"name": "cat.png", "reason": "too_thin", "width": 60000, "height": 1, "limit": 50},
    "import_rejected": {"name": "chats.zip", "reason": "image", "where": "images/a.webp",
        "image": {"name": "a.webp", "reason": "foreign", "format": "PDF"}},
    "image_not_fetched": {"url": "http://x/", "reason": "port", "port": 25},
    "model_unknown": {"model": "x", "nearest": "y", "known": "y, z"},
    "mirror_invalid": {"address": "ftp://x"},
    "name_invalid": {"name": "a b"},
    "model_known": {"model": "M"},
    "model_refused": {"name": "a/b", "cause": "model_unsupported",
        "facts": {"file": "config.json", "problem": "mamba"}},
    "model_missing": {"model": "m", "tried": (("modelscope", "download_failed", {"source": "modelscope",
        "kind": "offline", "detail": ""}), ("huggingface", "model_corrupt", {"file": "f", "problem": "hash"}))},
    "download_failed": {"source": "modelscope", "kind": "stalled", "detail": "x"},
    "download_cancelled": {"model": "m"},
    "model_corrupt": {"file": "a.safetensors", "problem": "truncated"},
    "model_unsupported": {"file": "config.json", "problem": "mamba"},
    "unsafe_model": {"file": "pytorch_model.bin"},
    "out_of_memory": {"model": "m", "stage": "answer"},
    "disk_full": {"needed": 4 * GIB, "free": GIB, "folder": "/data"},
    "busy": {"waiting": 16, "limit": 16},
    "busy_yours": {"waiting": 8, "limit": 8},
    "server": {"server": "gpu1:23333", "reason": "unconnected", "why": "refused"},
    "share_failed": {"reason": "helper_missing", "path": "/frpc", "url": "https://x/frpc", "detail": "timed out"},
    "history_unavailable": {"detail": "disk I/O error"},
    "not_saved": {"kind": "full"},
    "store_damaged": {"file": "conversations.damaged-2026-11-23-071500.sqlite3", "folder": "/data"},
    "store_too_new": {"file": "/data/conversations.sqlite3", "version": 9, "known": 4},
    "data_in_use": {"folder": "/data", "address": "http://127.0.0.1:7860/"},
    "engine_died": {"model": "m", "signal": "SIGKILL", "exit_code": -9, "stage": "weights"},
    "engine_hung": {"model": "m", "stage": "answer", "seconds": 120.0},
    "engine_failed": {"model": "m", "stage": "answer", "kind": "RuntimeError"},
}  # fmt: skip
PLAN = plan_load(
    load_catalogue()["internlm2-chat-1_8b"], DeviceMemory("card", "cuda", 4 * GIB, 2 * GIB, 32 * GIB, 32 * GIB),
    alternatives=load_catalogue().models,
)  # fmt: skip


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("cls", [*concrete(errors.AppError)], ids=lambda cls: cls.__name__)
def test_every_error_has_words_and_survives_storing(cls: type[errors.AppError], lang: Lang) -> None:
    facts = {"plan": PLAN} if cls.code == "not_enough_memory" else FACTS[cls.code]
    error = cls(**facts)
    notice = explain(error, lang)
    assert notice.title and notice.body and "{" not in notice.line
    assert notice.title != t("error.internal.title", lang)
    stored = json.loads(json.dumps(record(error)))
    assert explain(stored, lang) == notice


@pytest.mark.parametrize("lang", LANGS)
def test_every_failure_of_configuration_has_words(lang: Lang) -> None:
    codes = [key.split(".")[1] for key in texts("en") if key.startswith("error.config_") and key.endswith(".title")]
    facts = {"name": "prot", "nearest": "port", "known": "host, port", "file": "app.toml", "where": "server",
             "value": "x", "detail": "d"}  # fmt: skip
    assert len(codes) >= 6
    for code in codes:
        assert "port" in explain(ConfigError(code, **facts), lang).line or code in ("config_value", "config_syntax")


def test_nothing_near_means_no_did_you_mean() -> None:
    notice = explain(ConfigError.unknown("config_unknown_flag", "--zzz", ["--port", "--host"]), "en")
    assert notice.hint == "--host, --port"


def test_an_error_without_words_is_still_one() -> None:
    assert explain(errors.AppError(model="m"), "en").title == "Something went wrong"
    assert explain({"code": "from_the_future", "facts": {}}, "zh").title == "出错了"


def test_a_plans_notes_in_words() -> None:
    assert "Does not fit" in plan_notes(PLAN.reasons, "en")[0] and "放不下" in plan_notes(PLAN.reasons, "zh")[0]
    as_json = json.loads(json.dumps(plan_dict(PLAN)))
    assert plan_notes(as_json["remedies"], "en") == plan_notes(PLAN.remedies, "en") != []


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (250 * 2**20, "250 MiB"), (5 * GIB, "5.0 GiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_times_and_languages() -> None:
    assert [seconds_text(s, "en") for s in (1.25, 120, 7200)] == ["1.2 s", "2 min", "2.0 h"]
    assert [lang_of(tag) for tag in ("zh-TW", "zh_CN.UTF-8", "ZH", "en-US", "de", None)] == ["zh"] * 3 + ["en"] * 3


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize(
    "error",
    [errors.DownloadFailed(source="pypi", kind="cut", detail=""), errors.DownloadCancelled(model="m")],
    ids=lambda error: error.code,
)
def test_a_transfer_is_said_to_go_on_only_where_it_does(error: errors.AppError, lang: Lang) -> None:
    """pip, which fetches from PyPI, begins every transfer anew."""
    notice = explain(error, lang)
    kept = t("models.source_modelscope", lang), t("models.source_huggingface", lang)
    assert all(source in notice.hint for source in (*kept, "PyPI"))
    assert not re.search("kept|保留", notice.line)
