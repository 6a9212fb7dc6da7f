"""The decoder on a CPU by OpenVINO: the same weights and arithmetic as `models.decoder.Decoder.step`.

The graph is written out here by hand. What was written stays inside OpenVINO, whose attention with a cache appends to
it in place; rows that leave, move or join are an index into the rows of the step before. All rows share one axis of
places: a row that writes fewer tokens than another leaves holes, which a mask hides, and when holes are most of it the
rows are run anew from their tokens. The context's keys and values are inputs that stay where they are.

It never changes a result beyond rounding: with `fp32` weights, logits agree with PyTorch's to 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo
from torch import Tensor

from multimodal_ai.inference.cache import weights_version
from multimodal_ai.inference.decoding import WIDTH_STEP, KeysValues
from multimodal_ai.models.layers import rotary_angles
from multimodal_ai.models.multimodal_model import MultimodalModel

Node = Any
HIDDEN = -1e9  # added to the score of what may not be seen
HEADS_BEHIND = np.array([0, 2, 1, 3])  # [B, T, H, E] <-> [B, H, T, E]
INPUTS = ("x", "cos", "sin", "rows", "mask", "context_mask", "last")


class OpenVINOBackend:
    """See the module's docstring. Compiled when first needed, and again when the model's weights have changed; a batch
    keeps those it began with.
    """

    name = "openvino"

    def __init__(self, model: MultimodalModel, weights: str = "fp32") -> None:
        self.model, self.weights = model, weights
        self._version: int | None = None
        self._compiled: Any = None

    def rows(self) -> OpenVINORows:
        version = weights_version(self.model)
        if version != self._version:
            hint = "bf16" if self.weights == "bf16" else "f32"
            properties = {
                "INFERENCE_PRECISION_HINT": hint,
                "KV_CACHE_PRECISION": hint,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            }
            graph = DecoderGraph(self.model, self.weights == "int8").build()
            self._compiled, self._version = ov.Core().compile_model(graph, "CPU", properties), version
        return OpenVINORows(self.model, self._compiled.create_infer_request())


class DecoderGraph:
    """The decoder with its cache and the logits as an OpenVINO model.

    Inputs: x float[B, T, D] embedded tokens; cos, sin float[B, T, 1, E / 2]; rows int[B], where each row stood in the
    step before; mask float[B, 1, T, places] and context_mask float[B, 1, 1, M], which are added to scores; last
    int[B, 1], the place of each row's last token; and per layer the context's keys float[B, K, E, M] and values
    float[B, K, M, E]. Outputs: states float[B, 1, D] and logits float[B, 1, V].
    """

    def __init__(self, model: MultimodalModel, int8: bool) -> None:
        self.model, self.int8 = model, int8
        config = model.config.decoder
        self.width, self.heads, self.kv_heads, self.head_width = (
            config.width, config.heads, config.kv_heads, config.head_width,
        )  # fmt: skip
        half = self.head_width // 2
        shapes = ([-1, -1, self.width], [-1, -1, 1, half], [-1, -1, 1, half], [-1], [-1, 1, -1, -1], [-1, 1, 1, -1])
        self.inputs = {
            name: op.parameter(ov.PartialShape(shape), ov.Type.i32 if name in ("rows", "last") else ov.Type.f32, name)
            for name, shape in zip(INPUTS, (*shapes, [-1, 1]), strict=True)
        }
        self.context: list[Node] = []
        self.assigned: list[Node] = []
        self.count = op.gather(op.shape_of(self.inputs["x"], "i64"), ints(0), np.int64(0))

    def build(self) -> ov.Model:
        x = self.inputs["x"]
        for number, block in enumerate(self.model.decoder.blocks):
            x = self._block(x, block, number)
        x = op.gather(x, self.inputs["last"], np.int64(1), 1)
        norm, embedding = array(self.model.decoder.norm.weight), array(self.model.embedding.weight)
        states = op.multiply(normalised(x), op.constant(norm))
        logits = self._linear(normalised(x), embedding * norm * np.float32(self.model.logit_scale))
        parameters = [*self.inputs.values(), *self.context]
        return ov.Model([op.result(states), op.result(logits)], self.assigned, parameters, "decoder")

    def _block(self, x: Node, block: Any, number: int) -> Node:
        H, K, E = self.heads, self.kv_heads, self.head_width
        attention, cross, mlp = block.attention, block.cross_attention, block.mlp
        # Scales of norms are multiplied into the linears behind them.
        weight = np.concatenate((array(attention.query.weight), array(attention.key_value.weight)))
        made = self._heads(self._linear(normalised(x), weight * array(block.attention_norm.weight)), H + 2 * K)
        qk, v = op.variadic_split(made, np.int64(2), ints(H + K, K)).outputs()
        scales = [array(attention.query_norm.weight)] * H + [array(attention.key_norm.weight)] * K
        qk = self._rotated(op.multiply(self._normalised_heads(qk, H + K), op.constant(np.stack(scales))))
        q, k = op.variadic_split(qk, np.int64(2), ints(H, K)).outputs()
        q, k, v = (op.transpose(part, HEADS_BEHIND) for part in (q, k, v))
        k, v = self._appended(k, f"keys{number}"), self._appended(v, f"values{number}")
        scale = op.constant(np.float32(E**-0.5))
        seen = op.scaled_dot_product_attention(q, self._shared(k), self._shared(v), self.inputs["mask"], scale)
        x = op.add(x, self._linear(self._joined(seen), array(attention.out.weight)))

        q = self._linear(normalised(x), array(cross.query.weight) * array(block.cross_norm.weight))
        q = self._normalised_heads(self._heads(q, H), H)
        q = op.multiply(q, op.constant(array(cross.query_norm.weight) * np.float32(E**-0.5)))
        keys = op.parameter(ov.PartialShape([-1, K, E, -1]), ov.Type.f32, f"context_keys{number}")
        values = op.parameter(ov.PartialShape([-1, K, -1, E]), ov.Type.f32, f"context_values{number}")
        self.context += [keys, values]
        # Query heads that share keys become further queries: no keys are copied.
        folded = op.reshape(op.transpose(q, HEADS_BEHIND), ints(0, K, -1, E), True)
        shares = op.softmax(op.add(op.matmul(folded, keys, False, False), self.inputs["context_mask"]), -1)
        seen = op.reshape(op.matmul(shares, values, False, False), op.concat([self.count, ints(H, -1, E)], 0), False)
        x = op.add(x, self._linear(self._joined(seen), array(cross.out.weight)))

        gate_up = self._linear(normalised(x), array(mlp.gate_up.weight) * array(block.mlp_norm.weight))
        gate, up = op.split(gate_up, np.int64(2), 2).outputs()
        return op.add(x, self._linear(op.multiply(op.swish(gate), up), array(mlp.down.weight)))

    def _linear(self, x: Node, weight: np.ndarray) -> Node:
        """weight: float32[out, in]. In int8 with one scale an output, in the form that OpenVINO keeps compressed."""
        if not self.int8:
            return op.matmul(x, op.constant(weight), False, True)
        scale = np.maximum(np.abs(weight).max(1, keepdims=True) / 127, np.float32(1e-12))
        rounded = op.convert(op.constant(np.round(weight / scale).astype(np.int8)), "f32")
        return op.matmul(x, op.multiply(rounded, op.constant(scale.astype(np.float32))), False, True)

    def _heads(self, x: Node, heads: int) -> Node:
        return op.reshape(x, ints(0, 0, heads, self.head_width), True)

    def _joined(self, x: Node) -> Node:
        """[B, H, T, E] -> [B, T, H * E]."""
        return op.reshape(op.transpose(x, HEADS_BEHIND), ints(0, 0, self.heads * self.head_width), True)

    def _normalised_heads(self, x: Node, heads: int) -> Node:
        """Over [B, T * heads, E]: the CPU has no kernel of this norm for four axes."""
        flat = op.reshape(x, op.concat([self.count, ints(-1, self.head_width)], 0), False)
        return op.reshape(normalised(flat), op.concat([self.count, ints(-1, heads, self.head_width)], 0), False)

    def _rotated(self, x: Node) -> Node:
        a, b = op.split(x, np.int64(3), 2).outputs()
        cos, sin = self.inputs["cos"], self.inputs["sin"]
        first = op.subtract(op.multiply(a, cos), op.multiply(b, sin))
        return op.concat([first, op.add(op.multiply(a, sin), op.multiply(b, cos))], -1)

    def _appended(self, new: Node, name: str) -> Node:
        """[B, K, T, E] behind what the rows have written before."""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, self.kv_heads, -1, self.head_width])
        info.data_type, info.variable_id = ov.Type.f32, name
        variable = Variable(info)
        nothing = op.concat([self.count, ints(self.kv_heads, 0, self.head_width)], 0)
        before = ov.opset6.read_value(op.broadcast(op.constant(np.float32(0)), nothing), variable)
        joined = op.concat([op.gather(before, self.inputs["rows"], np.int64(0)), new], 2)
        self.assigned.append(ov.opset6.assign(joined, variable))
        return joined

    def _shared(self, x: Node) -> Node:
        """[B, K, S, E] -> [B, H, S, E]; OpenVINO's attention recognises the form and copies nothing."""
        groups = self.heads // self.kv_heads
        if groups == 1:
            return x
        places = op.gather(op.shape_of(x, "i64"), ints(2), np.int64(0))
        shape = op.concat([self.count, ints(self.kv_heads, groups), places, ints(self.head_width)], 0)
        wide = op.broadcast(op.unsqueeze(x, np.int64(2)), shape, broadcast_spec="BIDIRECTIONAL")
        return op.reshape(wide, ints(0, self.heads, -1, self.head_width), True)


class OpenVINORows:
    """See `DecodingRows`."""

    def __init__(self, model: MultimodalModel, request: Any) -> None:
        self._request, config = request, model.config.decoder
        self._table, self._scale = array(model.embedding.weight), np.float32(model.input_scale)
        self._head_width, self._theta = config.head_width, config.rope_theta
        self._tokens: list[list[int]] = []  # all that each row has run or is to run
        self._before: list[int | None] = []  # where each row stood in the last step, None: not in it
        self._visible = np.zeros((0, 0), dtype=bool)  # of the last step's rows and places
        self._inputs: dict[int, np.ndarray] = {}  # by number, held as long as OpenVINO may read them
        self._context = _Context(config.layers, config.kv_heads, config.head_width)

    @property
    def places(self) -> int:
        """On the axis that all rows share, holes included."""
        return self._visible.shape[1]

    def add(self, opening: int, memory: KeysValues, written: KeysValues) -> None:
        self._context.put(len(self._tokens), memory)
        self._tokens.append([opening])
        self._before.append(None)

    def remove(self, number: int) -> None:
        last = len(self._tokens) - 1
        self._context.move(last, number)
        for values in (self._tokens, self._before):
            values[number] = values[last]  # type: ignore[assignment]
            values.pop()

    def step(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        n = len(tokens)
        longest = max(map(len, self._tokens))
        if self.places > 2 * longest + WIDTH_STEP or all(before is None for before in self._before):
            self._request.reset_state()
            self._before, self._visible = [None] * n, np.zeros((n, 0), dtype=bool)
        run, starts = [], []
        for number, written in enumerate(tokens):
            fresh = self._before[number] is None
            starts.append(0 if fresh else len(self._tokens[number]))
            run.append([*self._tokens[number], *written] if fresh else written)
            self._tokens[number].extend(written)
        counts = np.array([len(row) for row in run])
        T = int(counts.max())
        ids = np.zeros((n, T), dtype=np.int64)
        for number, row in enumerate(run):
            ids[number, : len(row)] = row
        positions = np.array(starts)[:, None] + np.arange(T)
        angles = rotary_angles(torch.from_numpy(positions)[..., None], self._head_width, self._theta)
        cos, sin = (part[:, :, None].contiguous().numpy() for part in angles)
        joined = np.array([before is None for before in self._before])
        order = np.array([before or 0 for before in self._before], dtype=np.int32)
        before = self._visible[order] & ~joined[:, None]
        new = np.arange(T) < counts[:, None]
        places = np.arange(T)
        seen = np.concatenate(
            (np.repeat(before[:, None], T, 1), np.repeat((places <= places[:, None])[None], n, 0)), axis=2
        )
        mask = np.where(seen, np.float32(0), np.float32(HIDDEN))[:, None]
        last = (counts - 1)[:, None].astype(np.int32)
        self._give(0, [self._table[ids] * self._scale, cos, sin, order, mask, self._context.mask(n), last])
        if self._context.changed:  # else they are where they were
            self._give(len(INPUTS), self._context.tensors(n))
        self._request.infer()
        self._visible = np.concatenate((before, new), axis=1)
        self._before = list(range(n))
        states, logits = (torch.tensor(self._request.get_output_tensor(number).data[:, 0]) for number in (0, 1))
        return states, logits

    def _give(self, first: int, values: Sequence[np.ndarray]) -> None:
        """Inputs from number `first` on, without copying them."""
        for number, value in enumerate(values, first):
            self._inputs[number] = value
            self._request.set_input_tensor(number, ov.Tensor(value, shared_memory=True))


class _Context:
    """Keys and values of the context of every row, padded to the longest, with the mask that hides the padding.

    changed: rows have come or gone since `tensors` was last asked for.
    """

    def __init__(self, layers: int, kv_heads: int, head_width: int) -> None:
        self._keys = np.zeros((layers, 0, kv_heads, head_width, 0), dtype=np.float32)
        self._values = np.zeros((layers, 0, kv_heads, 0, head_width), dtype=np.float32)
        self._mask = np.zeros((0, 1, 1, 0), dtype=np.float32)
        self.changed = True

    def put(self, row: int, memory: KeysValues) -> None:
        length, self.changed = len(memory[0][0]), True
        self._reserve(row + 1, length)
        for layer, (k, v) in enumerate(memory):
            self._keys[layer, row, :, :, :length] = array(k.permute(1, 2, 0))
            self._values[layer, row, :, :length] = array(v.transpose(0, 1))
        self._values[:, row, :, length:] = 0
        self._keys[:, row, :, :, length:] = 0
        self._mask[row] = np.where(np.arange(self._mask.shape[-1]) < length, 0, HIDDEN)

    def move(self, source: int, target: int) -> None:
        """Row `source` replaces row `target`; it may be the same one."""
        self.changed = True
        for table in (self._keys.swapaxes(0, 1), self._values.swapaxes(0, 1), self._mask):
            table[target] = table[source]

    def mask(self, rows: int) -> np.ndarray:
        return self._mask[:rows]

    def tensors(self, rows: int) -> list[np.ndarray]:
        """Per layer keys and values; no copies."""
        found, self.changed = [], False
        for keys, values in zip(self._keys, self._values, strict=True):
            found += [keys[:rows], values[:rows]]
        return found

    def _reserve(self, rows: int, width: int) -> None:
        held_rows, held_width = self._mask.shape[0], self._mask.shape[-1]
        if rows <= held_rows and width <= held_width:
            return
        room = held_rows if rows <= held_rows else max(rows, 2 * held_rows)
        size = max(-(-width // WIDTH_STEP) * WIDTH_STEP, held_width)
        (layers, _, kv_heads, head_width, _) = self._keys.shape
        keys = np.zeros((layers, room, kv_heads, head_width, size), dtype=np.float32)
        values = np.zeros((layers, room, kv_heads, size, head_width), dtype=np.float32)
        mask = np.full((room, 1, 1, size), HIDDEN, dtype=np.float32)
        keys[:, :held_rows, :, :, :held_width] = self._keys
        values[:, :held_rows, :, :held_width] = self._values
        mask[:held_rows, ..., :held_width] = self._mask
        self._keys, self._values, self._mask = keys, values, mask


def array(tensor: Tensor) -> np.ndarray:
    """A tensor as float32 in main memory, contiguous."""
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def normalised(x: Node) -> Node:
    """Layer norm over the last axis without its scale."""
    return op.mvn(x, ints(-1), True, 1e-6, "inside_sqrt")


def ints(*values: int) -> Node:
    return op.constant(np.array(values, dtype=np.int64))
