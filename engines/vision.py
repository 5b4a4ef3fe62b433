"""Image questions through LMDeploy's in-process pipeline, TurboMind or its PyTorch engine. No server anywhere.

Runs in a worker process. The prompt is made here, token for token as InternVL2's published code makes it, and handed
over as ids: LMDeploy's own templates differ from it, and would take what people type for control tokens. Images are
cut into tiles by LMDeploy, as many as were counted here.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from engines import lmdeploy_configs
from engines.ahead import collector_paused
from engines.base import Emit, FinishReason, GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.checkpoints import load_tokenizer
from engines.checkpoints.safe import check_folder
from engines.decode import TokenDecoder
from engines.errors import Cancelled, EngineFailed, ImageRejected
from engines.lmdeploy_stream import Stream
from engines.memory import LoadSettings
from engines.need import KV_BLOCK
from engines.peak import PeakWatch
from engines.prompt import CONTEXT, KEPT, ImageChatFormat, ImagePrompt, fit_images
from engines.text import prompt_limit
from engines.tiling import share, tile_count, widest


class LMDeployEngine:
    """One loaded vision model. Answers as many questions at a time as its settings allow.

    But it looks at one of them at a time, from its images to its first token: LMDeploy's engines would look at all the
    images whose tokens meet in a step, TurboMind even at those that only begin or end in it, and take more memory.
    """

    def __init__(self, folder: Path, settings: LoadSettings, stage: Callable[[str], None] = lambda name: None) -> None:
        check_folder(folder)
        self._settings, self.parallel = settings, settings.max_batch
        self._turn = asyncio.Lock()
        self._watch = PeakWatch()
        if settings.backend == "turbomind":
            # Weights pass through torch's allocator into TurboMind's: what torch kept would be held twice.
            os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        # Its look at the machine is a process of its own: half a GiB of the card, and our configuration unknown there.
        os.environ["LMDEPLOY_ENABLE_CHECK_ENV"] = "0"
        # On Hopper the PyTorch engine would multiply 4-bit weights by TurboMind's kernels, which abort in bfloat16.
        os.environ["LMDEPLOY_W4A16_GEMM_BACKEND"] = "triton"
        with collector_paused():
            stage("libraries")
            import lmdeploy
            from lmdeploy import turbomind

            if settings.backend == "turbomind" and not turbomind.is_available():
                # LMDeploy would take its other engine without a word, with settings that were not made for it.
                raise EngineFailed(kind="TurboMind") from turbomind._import_error
            lmdeploy_configs.register()
            stage("tokenizer")
            self._tokenizer = load_tokenizer(folder)
        self._lmdeploy = lmdeploy
        self._context_id = int(self._tokenizer.convert_tokens_to_ids(CONTEXT))
        self._stop_ids = [int(self._tokenizer.eos_token_id), int(self._tokenizer.convert_tokens_to_ids("<|im_end|>"))]
        stage("weights")
        self._pipe = lmdeploy.pipeline(
            str(folder), backend_config=self._config(), trust_remote_code=False, log_level="ERROR"
        )
        stage("warming")
        self._warm_up()
        self._watch.close()

    def generate(self, messages: Sequence[Message], settings: GenerationSettings, emit: Emit) -> Usage:
        """See engines.base.Engine. Raises TooManyImages, too, and EngineFailed when LMDeploy reports an error."""
        settings = settings.checked()
        started = time.monotonic()
        limit = prompt_limit(self._settings.context, settings.max_new_tokens, KEPT) - 1
        tiles = self._settings.tiles(settings.detail)
        prompt = fit_images(messages, self._format_of, limit, self._settings.max_tiles, tiles)
        ids: list[int] = []
        decoder = TokenDecoder(self._tokenizer, prompt.ids if messages[-1].role == "assistant" else ())
        first: float | None = None
        reason: FinishReason = "cancelled"
        pieces = self._ask(prompt, settings, emit)
        try:
            for token in pieces:
                first = first or time.monotonic()
                ids.append(token)
                emit(decoder.step(token))
            emit(decoder.flush())
            reason = pieces.reason
        except Cancelled:
            pieces.stop()
        ended = time.monotonic()
        return Usage(
            prompt_tokens=len(prompt.ids),
            cached_tokens=0,
            new_tokens=len(ids),
            first_token_s=(first or ended) - started,
            seconds=ended - started,
            reason=reason,
            context=self._settings.context,
            turns_left_out=prompt.turns_left_out,
            prompt_limit=limit,
        )

    def count_tokens(self, messages: Sequence[Message]) -> int:
        images = sum(len(one.images) for one in messages)
        return len(self._format_of(share(self._settings.max_tiles, images))(messages))

    def memory(self) -> int:
        """Bytes of the device held at the peak so far."""
        return self._watch.peak()

    def close(self) -> None:
        self._pipe.close()

    def _config(self) -> Any:
        """The engine's settings as LMDeploy takes them; the KV cache by its share of what is free when it is made."""
        given = self._settings
        common = {
            "dtype": given.dtype,
            "session_len": given.context,
            "max_batch_size": given.max_batch,
            "max_prefill_token_num": given.prefill_chunk,
            "quant_policy": 0 if given.kv_bits == 16 else given.kv_bits,
            "enable_metrics": False,
        }
        if given.backend == "pytorch":
            return self._lmdeploy.PytorchEngineConfig(
                **common,
                cache_max_entry_count=0.9,
                num_gpu_blocks=given.max_batch * -(-given.context // KV_BLOCK) + 1,  # LMDeploy keeps one
                cudagraph_capture_batch_sizes=[*range(1, given.max_batch + 1)],
            )
        free = self._watch.free_before
        if given.kv_bytes > 0.95 * (free - given.before_kv):
            # It would wait for ever for tokens that its cache has no room for.
            raise MemoryError(f"not enough memory: {free} bytes are free, less than when the plan was made")
        return self._lmdeploy.TurbomindEngineConfig(
            **common,
            cache_max_entry_count=given.kv_ratio(free),
            model_format="awq" if given.quantization == "awq" else None,
            enable_prefix_caching=True,
        )

    def _ask(self, prompt: ImagePrompt, settings: GenerationSettings, emit: Emit) -> Stream:
        session, config = self._pipe.session(), self._sampling(prompt, settings)
        request = self._request(prompt) | {"gen_config": config}
        return Stream(self._pipe, self._turn, session, len(prompt.ids), request, emit)

    def _request(self, prompt: ImagePrompt) -> dict[str, Any]:
        """What preprocess is given: ids alone, or ids with one token for each image and the images beside them."""
        if not prompt.spans:
            return {"messages": None, "input_ids": prompt.ids}
        ids, done = [], 0
        for span in prompt.spans:
            ids += [*prompt.ids[done : span.start], self._context_id]
            done = span.stop
        content: list[dict[str, Any]] = [{"type": "text", "text": [*ids, *prompt.ids[done:]]}]
        for image in prompt.images:
            try:
                with Image.open(image.path) as file:
                    data = file.convert("RGB")
            except OSError:
                raise ImageRejected(name=image.path.name, reason="gone") from None
            content.append({"type": "image_data", "image_data": {"data": data, "max_dynamic_patch": prompt.max_tiles}})
        return {"messages": [{"role": "user", "content": content}]}

    def _sampling(self, prompt: ImagePrompt, settings: GenerationSettings) -> Any:
        return self._lmdeploy.GenerationConfig(
            max_new_tokens=min(settings.max_new_tokens, self._settings.context - len(prompt.ids) - 1),
            do_sample=settings.temperature > 0,
            temperature=settings.temperature or 1.0,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            random_seed=settings.seed,
            stop_token_ids=self._stop_ids,
        )

    def _format_of(self, max_tiles: int) -> ImageChatFormat:
        return ImageChatFormat(self._tokenizer, lambda image: tile_count(image.width, image.height, max_tiles))

    def _warm_up(self) -> None:
        """The largest prefill there can be, in tiles and in tokens, so that what cannot run or does not fit fails now.

        After a smaller one the PyTorch engine would grow: torch's allocator keeps its blocks, and makes larger beside.
        """
        size, new = widest(self._settings.max_tiles), 4
        most = min(self._settings.prefill_chunk, prompt_limit(self._settings.context, new, KEPT) - 1)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "warm.png"
            Image.new("RGB", size).save(path)

            def asked(words: int) -> list[Message]:
                return [Message("user", (ImagePart("", path, *size), TextPart(" a" * words)))]

            words = bisect_right(range(most), most, key=lambda n: self.count_tokens(asked(n))) - 1
            self.generate(asked(words), GenerationSettings(max_new_tokens=new, temperature=0), lambda text: None)
