"""What InternVL2 computes and how it cuts images, written down from its definition, independent of everybody's code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.internlm2_reference import internlm2_logits


def reference_logits(folder: Path, ids: list[int], tiles: torch.Tensor, context: int) -> torch.Tensor:
    """The logits [tokens, vocabulary] of a prompt in which each `context` stands for one token of `tiles`, in order."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    language = {n.removeprefix("language_model."): v for n, v in weights.items() if n.startswith("language_model.")}
    hidden = language["model.tok_embeddings.weight"][ids].clone()
    if len(tiles):
        features = [_tile_features(config["vision_config"], weights, tile) for tile in tiles]
        hidden[torch.tensor(ids) == context] = torch.cat(features)
    return internlm2_logits(config["llm_config"], language, hidden)


def _tile_features(config: dict[str, Any], weights: dict[str, torch.Tensor], tile: torch.Tensor) -> torch.Tensor:
    """The tokens [patches / 4, language model's hidden] of one tile [3, size, size]."""
    side, patch = config["image_size"] // config["patch_size"], config["patch_size"]
    hidden = _vision_tower(config, weights, tile.view(3, side, patch, side, patch).permute(1, 3, 0, 2, 4).flatten(2))
    grid = hidden[1:].view(side, side, -1)
    # Four neighbours become one, one row's pair after the other.
    quads = [
        torch.cat([grid[row, column], grid[row, column + 1], grid[row + 1, column], grid[row + 1, column + 1]])
        for row in range(0, side, 2)
        for column in range(0, side, 2)
    ]
    x = _norm(torch.stack(quads), weights, "mlp1.0", 1e-5)
    return _linear(_gelu(_linear(x, weights, "mlp1.1")), weights, "mlp1.3")


def _vision_tower(config: dict[str, Any], weights: dict[str, torch.Tensor], patches: torch.Tensor) -> torch.Tensor:
    """[1 + patches, hidden] of patches [side, side, 3 * patch * patch]."""
    start, eps = "vision_model.embeddings.", config["layer_norm_eps"]
    kernel = weights[start + "patch_embedding.weight"].flatten(1)
    hidden = patches.flatten(0, 1) @ kernel.T + weights[start + "patch_embedding.bias"]
    hidden = torch.cat([weights[start + "class_embedding"][0], hidden]) + weights[start + "position_embedding"][0]
    for layer in range(config["num_hidden_layers"]):
        name = f"vision_model.encoder.layers.{layer}."
        fused = _linear(_norm(hidden, weights, name + "norm1", eps), weights, name + "attn.qkv")
        heads = []
        parts = (part.chunk(config["num_attention_heads"], -1) for part in fused.chunk(3, -1))
        for query, key, value in zip(*parts, strict=True):
            heads.append((query @ key.T / math.sqrt(query.shape[-1])).softmax(-1) @ value)
        hidden = hidden + weights[name + "ls1"] * _linear(torch.cat(heads, -1), weights, name + "attn.proj")
        inner = _gelu(_linear(_norm(hidden, weights, name + "norm2", eps), weights, name + "mlp.fc1"))
        hidden = hidden + weights[name + "ls2"] * _linear(inner, weights, name + "mlp.fc2")
    return hidden


def _linear(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return x @ weights[name + ".weight"].T + weights.get(name + ".bias", torch.zeros(1))


def _norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[name + ".weight"] + weights[name + ".bias"]


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def reference_grid(width: int, height: int, max_tiles: int, tile: int = 448) -> tuple[int, int]:
    """The published rule: the grid nearest to the image's shape, the last of equals that is not too fine for it."""
    grids = {(i, j) for n in range(1, max_tiles + 1) for i in range(1, n + 1) for j in range(1, n + 1)}
    best, best_difference = (1, 1), float("inf")
    for i, j in sorted((one for one in grids if one[0] * one[1] <= max_tiles), key=lambda one: one[0] * one[1]):
        difference = abs(width / height - i / j)
        if difference < best_difference:
            best, best_difference = (i, j), difference
        elif difference == best_difference and width * height > 0.5 * tile * tile * i * j:
            best = (i, j)
    return best


def reference_pixels(image: Image.Image, max_tiles: int, tile: int = 448) -> torch.Tensor:
    """[tiles, 3, tile, tile] as torchvision's ToTensor and Normalize make it of PIL's resized crops."""
    image = image.convert("RGB")
    columns, rows = reference_grid(*image.size, max_tiles, tile)
    resized = image.resize((tile * columns, tile * rows))
    crops = [
        resized.crop((tile * column, tile * row, tile * (column + 1), tile * (row + 1)))
        for row in range(rows)
        for column in range(columns)
    ]
    if len(crops) > 1:
        crops.append(image.resize((tile, tile)))
    stacked = torch.stack([torch.from_numpy(numpy.array(crop)).permute(2, 0, 1) for crop in crops])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (stacked.float().div(255) - mean[:, None, None]) / std[:, None, None]
