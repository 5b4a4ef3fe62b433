"""What can be configured, as frozen values. Knows nothing of files, environment or flags (load.py does).

Sizes are in bytes, times in seconds, unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import StringConstraints

Lang = Literal["auto", "en", "zh"]
SourceKind = Literal["local", "modelscope", "huggingface", "pypi"]
ModelKind = Literal["text", "vision"]
Quantization = Literal["none", "awq"]
Dtype = Literal["float32", "bfloat16", "float16"]
BackendChoice = Literal["auto", "turbomind", "pytorch", "native"]
WeightsChoice = Literal["auto", "full", "quantized"]


class Strict:
    """Makes load.py's validation refuse keys that a class does not have."""

    __slots__ = ()
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  pydantic wants a plain dict here


DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ServerConfig(Strict):
    """Where the page is served, and to whom. Secrets are not in its repr."""

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 7860
    root_path: Annotated[str, StringConstraints(pattern=r"^(/[^/?#\s]+)*/?$")] = ""
    browser: bool = True
    allow_hosts: tuple[str, ...] = ()
    share: bool = False
    auth: tuple[str, ...] = field(default=(), repr=False)
    auth_file: str = ""
    session_idle: Annotated[float, Gt(0)] = 24 * 3600.0
    session_lifetime: Annotated[float, Gt(0)] = 7 * 24 * 3600.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class InterfaceConfig(Strict):
    """What the page looks like and says."""

    lang: Lang = "auto"
    refresh_per_second: Annotated[float, Gt(0), Le(60)] = 20.0


@dataclass(frozen=True, slots=True)
class ModelsConfig(Strict):
    """Which model is opened first and where models come from."""

    model: str = "smollm2-135m-instruct"
    sources: tuple[SourceKind, ...] = ("local", "modelscope", "huggingface", "pypi")
    folders: tuple[Path, ...] = ()
    offline: bool = False
    stall_after: Annotated[float, Gt(0)] = 60.0


@dataclass(frozen=True, slots=True)
class Limits(Strict):
    """How long and how many: what the runner holds engines and people to."""

    max_waiting: Annotated[int, Ge(0)] = 16
    max_waiting_each: Annotated[int, Ge(1)] = 8
    load_deadline: Annotated[float, Gt(0)] = 300.0
    silence_limit: Annotated[float, Gt(0)] = 120.0
    idle_unload: Annotated[float, Gt(0)] = 900.0
    abandon_after: Annotated[float, Gt(0)] = 20.0


@dataclass(frozen=True, slots=True)
class MemoryConfig(Strict):
    """What the memory guard plans with, and what it leaves alone."""

    backend: BackendChoice = "auto"
    weights: WeightsChoice = "auto"
    force: bool = False
    gpu_margin: Annotated[int, Ge(0)] = 256 * 2**20
    host_margin: Annotated[int, Ge(0)] = 512 * 2**20
    context: Annotated[int, Ge(256)] = 8192
    max_batch: Annotated[int, Ge(1)] = 4


@dataclass(frozen=True, slots=True)
class UploadsConfig(Strict):
    """What an image may be. Sides in pixels; `max_ratio` is the longer side over the shorter one.

    `max_request` is for a whole request to the API, with all its images.
    """

    max_bytes: Annotated[int, Gt(0)] = 20 * 2**20
    max_pixels: Annotated[int, Gt(0)] = 50_000_000
    max_side: Annotated[int, Gt(0)] = 20_000
    max_ratio: Annotated[int, Ge(1)] = 50
    max_images: Annotated[int, Ge(1)] = 8
    store_side: Annotated[int, Ge(448), Le(16383)] = 4096
    max_request: Annotated[int, Gt(0)] = 64 * 2**20


@dataclass(frozen=True, slots=True)
class AppConfig(Strict):
    """Everything a person may set. `data` holds models, conversations, their images and logs."""

    data: Path
    server: ServerConfig = field(default_factory=ServerConfig)
    interface: InterfaceConfig = field(default_factory=InterfaceConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    limits: Limits = field(default_factory=Limits)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    uploads: UploadsConfig = field(default_factory=UploadsConfig)


@dataclass(frozen=True, slots=True)
class Architecture(Strict):
    """The geometry of a decoder, enough to compute what it needs in memory before any file of it is here."""

    parameters: Annotated[int, Gt(0)]
    layers: Annotated[int, Gt(0)]
    hidden: Annotated[int, Gt(0)]
    intermediate: Annotated[int, Gt(0)]
    heads: Annotated[int, Gt(0)]
    kv_heads: Annotated[int, Gt(0)]
    head_dim: Annotated[int, Gt(0)]
    vocab: Annotated[int, Gt(0)]


@dataclass(frozen=True, slots=True)
class VisionTower(Strict):
    """The image encoder in front of a decoder, projector included. Sizes are in pixels, and for one tile in tokens."""

    parameters: Annotated[int, Gt(0)]
    layers: Annotated[int, Gt(0)]
    hidden: Annotated[int, Gt(0)]
    intermediate: Annotated[int, Gt(0)]
    tile: Annotated[int, Gt(0)] = 448
    tokens_per_tile: Annotated[int, Gt(0)] = 256
    patches_per_tile: Annotated[int, Gt(0)] = 1025
    max_tiles: Annotated[int, Ge(1)] = 12
    """Of one image, a thumbnail of the whole not counted, which comes on top of two tiles or more."""


@dataclass(frozen=True, slots=True)
class Defaults(Strict):
    """The sampling settings that a model's makers use."""

    max_new_tokens: Annotated[int, Ge(1)] = 1024
    temperature: Annotated[float, Ge(0), Le(2)] = 0.8
    top_p: Annotated[float, Gt(0), Le(1)] = 0.8
    top_k: Annotated[int, Ge(0)] = 0
    repetition_penalty: Annotated[float, Ge(0.5), Le(2)] = 1.0


@dataclass(frozen=True, slots=True)
class Source(Strict):
    """One place a model can be had from. `revision` is a tag or commit of a hub, or the version of a package."""

    kind: SourceKind
    name: str
    revision: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Known SHA-256 of single files, by path; a hub's own listing gives the others."""


ServerField = Literal["top_k", "repetition_penalty", "continue_final_message"]
SERVER_FIELDS: tuple[ServerField, ...] = ("top_k", "repetition_penalty", "continue_final_message")


@dataclass(frozen=True, slots=True)
class Remote(Strict):
    """A server elsewhere that speaks OpenAI's API, and answers in the place of an engine here.

    `urls` are further addresses of the same model, tried in turn when one cannot be connected to. `model` is its name
    there, "" the first that the server lists; `key_env` is the environment variable that holds the key. Times in
    seconds. `fields` are those it takes beyond OpenAI's: LMDeploy, vLLM and SGLang take all.
    """

    url: str = ""
    urls: tuple[str, ...] = ()
    model: str = ""
    key_env: str = ""
    parallel: Annotated[int, Ge(1), Le(64)] = 4
    connect: Annotated[float, Gt(0)] = 5.0
    first_token: Annotated[float, Gt(0)] = 120.0
    silence: Annotated[float, Gt(0)] = 60.0
    fields: tuple[ServerField, ...] = SERVER_FIELDS

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("url is missing")
        for address in self.addresses:
            server_of(address)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address, each once, without a slash at its end; one that names no path means /v1."""
        given = (one.strip().rstrip("/") for one in (self.url, *self.urls) if one.strip())
        return tuple(dict.fromkeys(one if urlsplit(one).path else f"{one}/v1" for one in given))

    @property
    def servers(self) -> str:
        """All of them, as people name them."""
        return ", ".join(server_of(one) for one in self.addresses)


def server_of(address: str) -> str:
    """Host and port of a server's address, as people name it. Raises ValueError for what is none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("not the http address of a server")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a key does not belong into an address: name its variable in key_env")
    parts.port  # noqa: B018  raises ValueError for one out of range
    return parts.netloc


@dataclass(frozen=True, slots=True)
class ModelSpec(Strict):
    """One entry of the catalogue. `download` is the transfer's size, `disk` what it takes when it is ready.

    One that is answered by a server elsewhere has `remote`, and nothing of what describes files; its `window` may be
    left to the server.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]  # names a folder, and a page's element
    title: str
    kind: ModelKind
    architecture: Architecture | None = None
    window: Annotated[int, Gt(0)] = 0
    dtype: Dtype = "bfloat16"
    cpu_dtype: Dtype = "bfloat16"
    download: Annotated[int, Gt(0)] = 0
    disk: Annotated[int, Gt(0)] = 0
    licence: str = "?"
    sources: tuple[Source, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
    system_prompt: str = ""
    vision: VisionTower | None = None
    quantization: Quantization = "none"
    """Of the decoder's linear layers; embeddings, output and vision tower stay in 16 bits."""
    integer_bits: Literal[0, 4, 8] = 0
    """Of a text model's weights as integers: on a CPU, by onnxruntime, and on a card that it does not fit whole.
    0 where that cannot be: then a CPU runs it by transformers, in `cpu_dtype`."""
    demo: bool = False
    """A model that is here to show the app at work, not to be relied on; said wherever it is named."""
    added: bool = False
    """By the person, on the page; kept in the data folder."""
    remote: Remote | None = None

    def __post_init__(self) -> None:
        if self.remote is None:
            for name in ("architecture", "window", "download", "disk", "sources"):
                if not getattr(self, name):
                    raise ValueError(f"{name} is missing")

    @property
    def shape(self) -> Architecture:
        """The decoder's geometry, of a model that is run here."""
        assert self.architecture is not None  # noqa: S101  __post_init__ has seen to it
        return self.architecture

    def source(self, kind: SourceKind) -> Source | None:
        return next((source for source in self.sources if source.kind == kind), None)


@dataclass(frozen=True, slots=True)
class Catalogue(Strict):
    """The models that the app knows."""

    models: tuple[ModelSpec, ...]

    def __getitem__(self, model: str) -> ModelSpec:
        return next(spec for spec in self.models if spec.id == model)

    def __contains__(self, model: str) -> bool:
        return any(spec.id == model for spec in self.models)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(spec.id for spec in self.models)
