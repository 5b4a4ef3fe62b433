"""Image questions through transformers' own InternVL classes: for machines without CUDA, and where LMDeploy is not.

Runs in a worker process, on one thread. What the text engine does for ids, this does for what the model is shown: an
image that is in the KV cache, or was looked at for the last prompt, is not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from engines.base import Emit, GenerationSettings, ImagePart, Message
from engines.errors import ImageRejected
from engines.memory import LoadSettings
from engines.prompt import KEPT, ImageChatFormat, ImagePrompt, Prompt, fit_images
from engines.text import TextEngine, prompt_limit
from engines.tiling import grid, pixels, share, tile_count

Look = tuple[str, tuple[int, int]]
"""An image as the model is shown it: its hash and its grid of tiles."""


class NativeVisionEngine(TextEngine):
    """One loaded vision model. `settings.max_tiles` is what one image may be cut into, and what several share."""

    def __init__(
        self,
        folder: Path,
        settings: LoadSettings,
        stage: Callable[[str], None] = lambda name: None,
        *,
        reuse_prefix: bool = True,
    ) -> None:
        self._features: dict[Look, Any] = {}
        super().__init__(folder, settings, stage, reuse_prefix=reuse_prefix)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        images = sum(len(one.images) for one in messages)
        return len(self._format_of(share(self._settings.max_tiles, images))(messages))

    @property
    def _tile(self) -> int:
        return int(self._model.config.vision_config.image_size[0])

    def _warm_up(self) -> None:
        from PIL import Image

        super()._warm_up()
        self._look(pixels(Image.new("RGB", (self._tile, self._tile)), 1, self._tile))

    def _format_of(self, max_tiles: int) -> ImageChatFormat:
        def tiles(image: ImagePart) -> int:
            return tile_count(image.width, image.height, max_tiles, self._tile)

        return ImageChatFormat(self._tokenizer, tiles, self._model.config.image_seq_length)

    def _prompt(self, messages: Sequence[Message], settings: GenerationSettings) -> ImagePrompt:
        tiles = self._settings.tiles(settings.detail)
        return fit_images(messages, self._format_of, self._limit(settings), self._settings.max_tiles, tiles)

    def _limit(self, settings: GenerationSettings) -> int:
        return prompt_limit(self._settings.context, settings.max_new_tokens, KEPT)

    def _encoded(self, prompt: Prompt, messages: Sequence[Message]) -> list[int]:
        assert isinstance(prompt, ImagePrompt)  # noqa: S101
        return self._format_of(prompt.max_tiles)(messages)

    def _looks(self, prompt: ImagePrompt) -> list[Look]:
        """How each image of the prompt is shown, in order."""
        return [
            (image.sha256, grid(image.width, image.height, prompt.max_tiles, self._tile)) for image in prompt.images
        ]

    def _what_is_seen(self, prompt: Prompt) -> Sequence[Hashable]:
        assert isinstance(prompt, ImagePrompt)  # noqa: S101
        seen: list[Hashable] = [*prompt.ids]
        for span, look in zip(prompt.spans, self._looks(prompt), strict=True):
            seen[span.start : span.stop] = [look] * len(span)
        return seen

    def _prefill(self, prompt: Prompt, emit: Emit) -> None:
        assert isinstance(prompt, ImagePrompt)  # noqa: S101
        kept = set(self._looks(prompt)) if self._reuse_prefix else set()
        self._features = {look: features for look, features in self._features.items() if look in kept}
        super()._prefill(prompt, emit)

    def _run(self, prompt: Prompt, start: int, stop: int, emit: Emit) -> None:
        assert isinstance(prompt, ImagePrompt)  # noqa: S101
        with self._torch.inference_mode():
            embeddings = self._model.get_input_embeddings()(self._tensor(prompt.ids[start:stop]))
            for number, span in enumerate(prompt.spans):
                begin, end = max(start, span.start), min(stop, span.stop)
                if begin < end:
                    features = self._features_of(prompt, number, emit)
                    embeddings[0, begin - start : end - start] = features[begin - span.start : end - span.start]
            self._model(inputs_embeds=embeddings, past_key_values=self._kv.cache, use_cache=True, logits_to_keep=1)

    def _features_of(self, prompt: ImagePrompt, number: int, emit: Emit) -> Any:
        """What the model makes of an image of the prompt: [tokens, hidden]. A cancel is noticed between its tiles."""
        from PIL import Image

        look = self._looks(prompt)[number]
        if look not in self._features:
            path = prompt.images[number].path
            try:
                with Image.open(path) as image:
                    tiles = pixels(image, prompt.max_tiles, self._tile)
            except OSError:
                raise ImageRejected(name=path.name, reason="gone") from None
            seen = []
            for tile in tiles.split(1):
                emit("")
                seen.append(self._look(tile))
            features = self._torch.cat(seen)
            if len(features) != len(prompt.spans[number]):
                raise ValueError("an image's file is not of the size that its message says")
            self._features[look] = features
        return self._features[look]

    def _look(self, tile: Any) -> Any:
        """One tile [1, 3, size, size] through the vision tower and the projector: [tokens, hidden].

        One at a time: a tile keeps all cores busy, and more of them would only hold more memory.
        """
        with self._torch.inference_mode():
            return self._model.get_image_features(pixel_values=tile.to(self._settings.device)).pooler_output[0]
