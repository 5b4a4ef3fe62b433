"""A Llama, InternLM2 among them -> an ONNX graph with 4- or 8-bit weights, which onnxruntime runs fast on a CPU.

Written with the operators that onnxruntime has for it: MatMulNBits, GroupQueryAttention and so on, of the domain
com.microsoft (docs/ContribOperators.md in its repository). The weights lie beside the graph, in a file of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engines.checkpoints import internlm2, special_ids, stop_ids
from engines.checkpoints.blocks import BLOCK, OUTER_BITS, integers
from engines.checkpoints.safe import CONFIG, check_folder, read_json, weight_files
from engines.checkpoints.tokenizer import END_OF_TURN
from engines.errors import ModelCorrupt, ModelUnsupported

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor
    from transformers import LlamaConfig

GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
GENERATION = "generation_config.json"
PAGE, LARGE = 2**16, 2**20
"""Where a tensor may begin to be mapped into memory on every system, and the bytes from which on one is worth that."""
INT8 = 4
"""MatMulNBits' accuracy_level with which it multiplies in integers; 0 multiplies in float32, much slower."""
MICROSOFT = "com.microsoft"


def write_graph(source: Path, folder: Path, bits: int, accuracy: int = INT8) -> None:
    """Writes GRAPH and WEIGHTS of the checkpoint in `source` into `folder`, the decoder's weights in `bits` bits each.

    The graph takes input_ids [1, n], total [] (the tokens with these), last [1] (total - 1) and, for each layer,
    past.<layer>.key and .value [1, kv heads, capacity, head size], which it gives back as present.<layer>.…; it gives
    logits [1, 1, vocabulary] of the last token. Its metadata has `stops`: the ids that end an answer.
    Raises UnsafeModel, ModelCorrupt and ModelUnsupported as loading does, and OSError.
    """
    check_folder(source)
    config = read_json(source / CONFIG)
    llama = llama_config(config)
    given = read_json(source / GENERATION) if (source / GENERATION).exists() else {}
    # As load_model has it: the published layouts' own class reads no generation_config.json.
    eos = llama.eos_token_id if config["model_type"] == "internlm2" else given.get("eos_token_id", llama.eos_token_id)
    stops = stop_ids(eos, special_ids(source, config).get(END_OF_TURN))
    with (folder / WEIGHTS).open("wb") as sink:
        graph = _Writer(_Checkpoint(source, llama), llama, bits, accuracy, sink).graph(stops)
    (folder / GRAPH).write_bytes(graph)


def llama_config(config: dict[str, Any]) -> LlamaConfig:
    """The configuration, in Llama's words. Raises ModelUnsupported(file, problem) for what the graph cannot express."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig

    match config.get("model_type"):
        case "internlm2":
            llama = internlm2.llama_config(config, torch.float32, "sdpa")
        case "llama":
            try:
                llama = LlamaConfig(**config)
            except (TypeError, ValueError, StrictDataclassError):
                raise ModelCorrupt(file=CONFIG, problem="field") from None
        case other:
            raise ModelUnsupported(file=CONFIG, problem=f"model_type {other}")
    if llama.attention_bias or llama.mlp_bias or llama.hidden_act != "silu" or config.get("quantization_config"):
        raise ModelUnsupported(file=CONFIG, problem="bias")
    if llama.hidden_size % BLOCK or llama.intermediate_size % BLOCK or llama.head_dim % 16:
        raise ModelUnsupported(file=CONFIG, problem="hidden_size")
    return llama


class _Checkpoint:
    """A folder's tensors under Llama's names, read one at a time."""

    def __init__(self, folder: Path, llama: LlamaConfig) -> None:
        from safetensors import safe_open

        self._heads, self._kv_heads = llama.num_attention_heads, llama.num_key_value_heads
        self._stored: dict[str, tuple[Path, str]] = {}
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as tensors:
                for stored in tensors.keys():
                    for name in internlm2.native_names(stored):
                        self._stored[name] = file, stored
        self._some = file.name

    def get(self, name: str, *shape: int) -> Tensor:
        """Raises ModelCorrupt(file, problem="tensor_missing"|"tensor_shape", tensor)."""
        from safetensors import safe_open

        if name not in self._stored:
            raise ModelCorrupt(file=self._some, problem="tensor_missing", tensor=name)
        file, stored = self._stored[name]
        with safe_open(file, framework="pt") as tensors:
            try:
                found = internlm2.native_tensors(stored, tensors.get_tensor(stored), self._heads, self._kv_heads)
            except ValueError:
                found = []
        tensor = dict(found).get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            raise ModelCorrupt(file=file.name, problem="tensor_shape", tensor=stored)
        return tensor


class _Writer:
    """Puts the graph together node by node; the large tensors go straight into `sink`."""

    def __init__(self, weights: _Checkpoint, llama: LlamaConfig, bits: int, accuracy: int, sink: IO[bytes]) -> None:
        self._weights, self._llama, self._bits, self._accuracy, self._sink = weights, llama, bits, accuracy, sink
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []

    def graph(self, stops: Sequence[int]) -> bytes:
        """The whole model's ONNX."""
        from onnx import TensorProto, helper

        llama, layers = self._llama, self._llama.num_hidden_layers
        self._rotary()
        hidden = self._embedding()
        normed = self._first_norm(hidden)
        for layer in range(layers):
            hidden, normed = self._layer(layer, hidden, normed)
        self._output(normed)
        kv = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        shape = [1, llama.num_key_value_heads, "capacity", llama.head_dim]
        value = helper.make_tensor_value_info
        inputs = [
            value("input_ids", TensorProto.INT64, [1, "n"]),
            value("total", TensorProto.INT32, []),
            value("last", TensorProto.INT32, [1]),
            *(value(f"past.{name}", TensorProto.FLOAT, shape) for name in kv),
        ]
        outputs = [
            value("logits", TensorProto.FLOAT, [1, 1, llama.vocab_size]),
            *(value(f"present.{name}", TensorProto.FLOAT, shape) for name in kv),
        ]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        graph = helper.make_graph(self._nodes, "decoder", inputs, outputs, self._tensors)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        helper.set_model_props(model, {"stops": " ".join(map(str, stops))})
        return bytes(model.SerializeToString())

    def _rotary(self) -> None:
        import torch
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        embedding = LlamaRotaryEmbedding(self._llama)
        positions = torch.arange(self._llama.max_position_embeddings, dtype=torch.float32)
        angles = torch.outer(positions, embedding.inv_freq)
        self._tensor("cos", (angles.cos() * embedding.attention_scaling).numpy())
        self._tensor("sin", (angles.sin() * embedding.attention_scaling).numpy())

    def _embedding(self) -> str:
        llama = self._llama
        table = self._weights.get("model.embed_tokens.weight", llama.vocab_size, llama.hidden_size)
        packed, scales, zeros = self._quantized("embedding", table, OUTER_BITS, flat=True)
        return self._node(
            "GatherBlockQuantized", [packed, "input_ids", scales, zeros], "embedded", MICROSOFT,
            bits=OUTER_BITS, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    def _first_norm(self, hidden: str) -> str:
        """Every other norm comes with an addition, and makes one node with it."""
        inputs = [hidden, self._norm("model.layers.0.input_layernorm")]
        return self._node("SimplifiedLayerNormalization", inputs, "normed", epsilon=self._llama.rms_norm_eps, axis=-1)

    def _layer(self, layer: int, hidden: str, normed: str) -> tuple[str, str]:
        """-> what goes on past the layer, and the same normed for the next one."""
        llama, name = self._llama, f"model.layers.{layer}"
        attended = self._attention(layer, self._qkv(name, normed))
        size, inner = llama.hidden_size, llama.intermediate_size
        attended = self._matmul(f"{name}.self_attn.o_proj", attended, size, llama.num_attention_heads * llama.head_dim)
        hidden, normed = self._add_and_norm(f"{name}.post_attention_layernorm", hidden, attended)
        gate = self._matmul(f"{name}.mlp.gate_proj", normed, inner, size)
        up = self._matmul(f"{name}.mlp.up_proj", normed, inner, size)
        slope = self._node("Sigmoid", [gate], f"{name}.slope")
        silu = self._node("Mul", [gate, slope], f"{name}.silu")
        gated = self._node("Mul", [silu, up], f"{name}.gated")
        down = self._matmul(f"{name}.mlp.down_proj", gated, size, inner)
        after = "model.norm" if layer == llama.num_hidden_layers - 1 else f"model.layers.{layer + 1}.input_layernorm"
        return self._add_and_norm(after, hidden, down)

    def _qkv(self, name: str, normed: str) -> str:
        import torch

        llama = self._llama
        rows = [llama.head_dim * heads for heads in (llama.num_attention_heads, *[llama.num_key_value_heads] * 2)]
        parts = [
            self._weights.get(f"{name}.self_attn.{part}_proj.weight", count, llama.hidden_size)
            for part, count in zip("qkv", rows, strict=True)
        ]
        return self._product(f"{name}.qkv", normed, torch.cat(parts), self._bits)

    def _attention(self, layer: int, qkv: str) -> str:
        llama, parts = self._llama, ("key", "value")
        inputs = [qkv, "", "", *(f"past.{layer}.{part}" for part in parts), "last", "total", "cos", "sin"]
        outputs = [f"attended.{layer}", *(f"present.{layer}.{part}" for part in parts)]
        return self._node(
            "GroupQueryAttention", inputs, outputs, MICROSOFT, num_heads=llama.num_attention_heads,
            kv_num_heads=llama.num_key_value_heads, do_rotary=1, rotary_interleaved=0, scale=llama.head_dim**-0.5,
        )  # fmt: skip

    def _add_and_norm(self, name: str, hidden: str, more: str) -> tuple[str, str]:
        normed, total = f"{name}.normed", f"{name}.total"
        self._node(
            "SkipSimplifiedLayerNormalization", [hidden, more, self._norm(name)], [normed, "", "", total], MICROSOFT,
            epsilon=self._llama.rms_norm_eps,
        )  # fmt: skip
        return total, normed

    def _output(self, normed: str) -> None:
        from numpy import array

        ends = [self._tensor(name, array([at])) for name, at in (("-1", -1), ("end", 2**62), ("axis", 1))]
        last = self._node("Slice", [normed, *ends], "last_normed")
        head = "model.embed_tokens" if self._llama.tie_word_embeddings else "lm_head"
        table = self._weights.get(f"{head}.weight", self._llama.vocab_size, self._llama.hidden_size)
        self._product("logits", last, table, OUTER_BITS)

    def _matmul(self, name: str, entry: str, rows: int, columns: int) -> str:
        return self._product(name, entry, self._weights.get(f"{name}.weight", rows, columns), self._bits)

    def _product(self, name: str, entry: str, weight: Tensor, bits: int) -> str:
        rows, columns = weight.shape
        return self._node(
            "MatMulNBits", [entry, *self._quantized(name, weight, bits)], name, MICROSOFT,
            N=rows, K=columns, bits=bits, block_size=BLOCK, accuracy_level=self._accuracy,
        )  # fmt: skip

    def _norm(self, name: str) -> str:
        return self._tensor(name, self._weights.get(f"{name}.weight", self._llama.hidden_size).float().numpy())

    def _quantized(self, name: str, weight: Tensor, bits: int, flat: bool = False) -> tuple[str, str, str]:
        """The names of a weight's integers, scales and zero points; `flat` as GatherBlockQuantized wants them."""
        packed, scales, zeros = (part.numpy() for part in integers(weight, bits))
        if flat:
            packed = packed.reshape(len(weight), -1)
        return tuple(self._tensor(f"{name}.{part}", array) for part, array in  # type: ignore[return-value]
                     (("packed", packed), ("scales", scales), ("zeros", zeros)))  # fmt: skip

    def _node(self, kind: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        names = [outputs] if isinstance(outputs, str) else outputs
        self._nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0]

    def _tensor(self, name: str, array: ndarray[Any, Any]) -> str:
        from onnx import TensorProto, helper, numpy_helper

        if array.nbytes < 1024:
            self._tensors.append(numpy_helper.from_array(array, name))
            return name
        self._sink.write(bytes(-self._sink.tell() % (PAGE if array.nbytes >= LARGE else 64)))
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        for key, value in (("location", WEIGHTS), ("offset", self._sink.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._sink.write(array.tobytes())
        self._tensors.append(tensor)
        return name
