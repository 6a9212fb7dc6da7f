"""How the function-calling head steers the decoder, one reply at a time.

The trigger decides between call and text, presence takes parameters that nobody stated out of the grammar,
the selection scores weigh the branches of the function's name, and the grammar forbids everything that
would not be a valid call. It sees scores and ids, never tensors of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.call_parser import CallParser, ParserEvent
from multimodal_ai.functions.choices import Choice, normalize_tool_choice, response_schema
from multimodal_ai.functions.copying import CopiedStrings
from multimodal_ai.functions.grammar import GrammarCompiler, Matcher
from multimodal_ai.functions.normalise import form_of
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.requests import Request
from multimodal_ai.inference.spelled import SpelledValue, SpelledValues


def without_absent(spec: FunctionSpec, present: Sequence[float], threshold: float = 0.5) -> FunctionSpec:
    """The function without the optional parameters whose presence stays under the threshold.

    present: probabilities in the order of `spec.parameter_names`. Leaving optional values out unless they
    are stated is the largest single lever on public benchmarks.
    """
    required = set(spec.required)
    absent = {
        name
        for name, probability in zip(spec.parameter_names, present, strict=False)
        if name not in required and probability < threshold
    }
    if not absent:
        return spec
    parameters = dict(spec.parameters)
    parameters["properties"] = {
        name: schema for name, schema in spec.parameters["properties"].items() if name not in absent
    }
    return FunctionSpec(spec.name, spec.description, parameters, spec.side_effect)


@dataclass
class Steering:
    """The grammar's and the parser's state of one reply."""

    specs: tuple[FunctionSpec, ...]
    selection: dict[str, float]
    matcher: Matcher
    parser: CallParser
    tokenizer: Tokenizer
    call_probability: float
    spelled: SpelledValues
    indices: dict[str, int] = field(default_factory=dict)
    formatted: bool = False  # text must be JSON
    unenforced: frozenset[str] = frozenset()  # functions whose calls must still be validated when complete
    answer: str = ""  # what is there of it

    @classmethod
    def start(
        cls,
        request: Request,
        specs: tuple[FunctionSpec, ...],
        compiler: GrammarCompiler,
        tokenizer: Tokenizer,
        trigger: Mapping[str, float] | None,
        selection: Mapping[str, float],
        presence: Sequence[Sequence[float]],
        spelled: SpelledValues,
        copied: CopiedStrings | None = None,
    ) -> Steering:
        """Decide between call and text, and compile the grammar of this reply.

        Under "auto" the likeliest function decides; one whose threshold is not reached cannot be called. `copied`: all
        that free strings may say, None for anything.
        """
        choice = normalize_tool_choice(request.tool_choice, specs)
        call_probability = 1.0
        if choice.mode == "auto" and trigger is not None:
            call_probability = trigger["call"]
            risky = {spec.name for spec in specs if spec.side_effect}
            usual, higher = request.call_threshold, request.side_effect_threshold
            higher = usual if higher is None else higher
            names = tuple(name for name in choice.names if call_probability >= (higher if name in risky else usual))
            called = max(choice.names, key=lambda name: selection.get(name, 0.0)) in names
            choice = replace(choice, mode="required", names=names) if called else Choice("none", ())
        callable_specs = [without_absent(spec, present) for spec, present in zip(specs, presence, strict=True)]
        grammar = compiler.compile(callable_specs, choice, request.parallel_tool_calls, request.response_format, copied)
        return cls(
            specs=specs,
            selection=dict(selection),
            matcher=grammar.matcher(),
            parser=CallParser(tokenizer, specs),
            tokenizer=tokenizer,
            call_probability=call_probability,
            spelled=spelled,
            indices={spec.name: number for number, spec in enumerate(specs)},
            formatted=response_schema(request.response_format) is not None,
            unenforced=frozenset(note.partition(":")[0] for note in grammar.notes),
        )

    @property
    def in_text(self) -> bool:
        """Whether the next token belongs to text, not to a call."""
        return self.parser.state == "text"

    def value(self) -> tuple[int, int] | None:
        """(function, parameter) whose value the next token belongs to, by their numbers; None outside values."""
        function, parameter = self.parser.function, self.parser.parameter
        if function is None or parameter is None:
            return None
        names = function.parameter_names
        return (self.indices[function.name], names.index(parameter)) if parameter in names else None

    def spelled_out(self) -> list[SpelledValue]:
        """What the text spells out, if the value being written has a form (a date, a time, a number)."""
        function, parameter = self.parser.function, self.parser.parameter
        if function is None or parameter not in function.parameter_names:
            return []
        form = form_of(function.parameter_schema(parameter))
        return self.spelled.continuing(form, self.parser.value_text) if form is not None else []

    def bias(self, allowed: np.ndarray) -> dict[int, float]:
        """Log-weights for the tokens that continue a function's name, from the selection scores."""
        if self.parser.state != "name" or len(self.specs) < 2:
            return {}
        tokens = np.flatnonzero(allowed)
        if len(tokens) < 2 or len(tokens) > 4 * len(self.specs) + 16:
            return {}
        prefix = self.parser.name_prefix.encode()
        names = {name: name.encode() + b'"' for name in self.selection}
        weights = {}
        for token in tokens.tolist():
            text = prefix + self.tokenizer.token_bytes(token)
            branches = [name for name, full in names.items() if full.startswith(text) or text.startswith(full)]
            share = sum(self.selection[name] for name in branches)
            weights[token] = float(np.log(max(share, 1e-6)))
        return weights

    def closing(self, allowed: np.ndarray) -> np.ndarray:
        """Those of the allowed tokens that bring an open call or a JSON answer to its end, where there are any.

        A reply that comes near its limit must not leave half a call behind: strings, lists and objects are
        closed where the grammar lets them be, and no further call is begun.
        """
        tokens = np.flatnonzero(allowed)
        end = self.tokenizer.special.end
        in_text = self.parser.state == "text"
        if in_text and (allowed[end] or not self.formatted):
            chosen = [end] if allowed[end] and len(tokens) < 3 else []
        else:
            chosen = []
            in_string = _ends_in_string(self.answer) if in_text else self.parser.in_string
            closers = ((b'"}', b'"]'), (b'"',)) if in_string else ((b"}", b"]"), (b'"',))
            for endings in closers:
                chosen = chosen or [t for t in tokens.tolist() if self.tokenizer.token_bytes(t).startswith(endings)]
        if not chosen:
            return allowed
        only = np.zeros_like(allowed)
        only[chosen] = True
        return only

    def take(self, token: int) -> list[ParserEvent]:
        """Consume one token in the grammar and the parser."""
        self.matcher.consume(token)
        events = self.parser.push(token)
        if self.formatted:
            self.answer += "".join(event.text for event in events if event.kind == "text")
        return events


def _ends_in_string(text: str) -> bool:
    """Whether JSON that was begun breaks off inside a string."""
    return re.sub(r"\\.", "", text, flags=re.DOTALL).count('"') % 2 == 1
