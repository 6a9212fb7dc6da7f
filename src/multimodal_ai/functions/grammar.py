"""From functions to a grammar over token ids.

With `call_parser` the only module of this package that knows tokens. A grammar allows text, calls, or text
and then calls, as the choice says; a call is `<function_call>{"name":"…","arguments":{…}}</function_call>` and
its marks are special tokens, so no text can imitate them and no text may contain them. A grammar never lets
generation run without end inside a call, and it never repairs: what it cannot express is noted, and
validated when the call is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from multimodal_ai.functions.bounds import GenerationBounds, bounded_schema
from multimodal_ai.functions.call_parser import TokenizerLike
from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.json_schema import SchemaError, check_schema
from multimodal_ai.functions.schema import FunctionSpec

ToolChoice = str | Mapping[str, Any]

_JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": True,
}
_LIMITS = LLParserLimits(verbose_errors=False)


class GrammarError(ValueError):
    """Functions or a choice that no grammar can be made from, or a token the grammar forbids."""


def normalize_tool_choice(choice: ToolChoice, functions: Sequence[FunctionSpec]) -> str | dict[str, str]:
    """Reduce the accepted spellings to "auto", "none", "required" or `{"name": …}`, or raise GrammarError.

    Accepts the chat-completions form `{"type": "function", "function": {"name": …}}` too.
    """
    if isinstance(choice, Mapping):
        inner = choice.get("function", choice)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        names = [spec.name for spec in functions]
        if name not in names:
            raise GrammarError(
                f"tool_choice names {name!r}; expected one of the functions given: {', '.join(names) or 'none'}"
            )
        return {"name": str(name)}
    if choice not in ("auto", "none", "required"):
        raise GrammarError(f"tool_choice {choice!r}: expected auto, none, required or {{'name': …}}")
    if choice == "required" and not functions:
        raise GrammarError("tool_choice is required but no functions are given; give some or use auto")
    return "none" if not functions else str(choice)


class Matcher:
    """The grammar at one point of one reply. Not shared between replies; `copy` to look ahead."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._end = end
        self._done = False

    def allowed(self) -> np.ndarray:
        """bool[V]: which token may come next. `<|end|>` is among them if and only if the reply may stop."""
        if self._done or self._matcher.is_stopped():
            mask = np.zeros(self._vocab_size, dtype=bool)
            mask[self._end] = not self._done
            return mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar became too complex here: {_first_line(self._matcher)}")
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(bool)

    def consume(self, id: int) -> None:
        """Take one token. Raises GrammarError, and stays where it was, if the grammar forbids it."""
        if not self._done and id == self._end and self._matcher.is_accepting():
            self._done = True
            return
        if self._done or id == self._end or self._matcher.try_consume_tokens([id]) != 1:
            raise GrammarError(f"token {id} is not allowed here; choose among the ids that allowed() gives")

    def forced(self) -> list[int]:
        """The tokens that must come next, [] where there is a choice. They are not consumed yet."""
        if self._done:
            return []
        if self._matcher.is_stopped():
            return [self._end]
        return list(self._matcher.compute_ff_tokens())

    @property
    def may_end(self) -> bool:
        """Whether the reply is complete as it stands."""
        return self._done or bool(self._matcher.is_accepting())

    @property
    def is_done(self) -> bool:
        """Whether `<|end|>` was taken."""
        return self._done

    def copy(self) -> Matcher:
        """An independent matcher at the same point."""
        twin = Matcher(self._matcher.deep_copy(), self._vocab_size, self._end)
        twin._done = self._done
        return twin


@dataclass(frozen=True)
class CompiledGrammar:
    """A grammar for one set of functions, one choice; `matcher` starts a reply.

    `notes` says what of the schemas it does not enforce, one line each, starting with the function's name.
    """

    functions: tuple[FunctionSpec, ...]
    tool_choice: str | dict[str, str]
    parallel: bool
    notes: tuple[str, ...]
    hash: str
    source: str
    _start: Matcher

    def matcher(self) -> Matcher:
        """A new matcher at the beginning of a reply."""
        return self._start.copy()


class GrammarCompiler:
    """Makes and keeps grammars for one tokenizer.

    `max_calls` bounds parallel calls in one reply, `bounds` what schemas leave open, `cache_size` how many
    grammars are kept (least recently used ones go first). Compiling takes about 1 ms for a function and 70 ms
    for 256; a kept one about 0.1 ms.
    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        bounds: GenerationBounds | None = None,
        max_calls: int = 16,
        cache_size: int = 128,
    ) -> None:
        self.tokenizer = tokenizer
        self.bounds = bounds or GenerationBounds()
        self.max_calls = max_calls
        self.cache_size = cache_size
        special = tokenizer.special
        self._end, self._call, self._call_end = special.end, special.call, special.call_end
        wrapper = TokenizerWrapper(_Vocabulary(tokenizer))
        self._tokenizer = LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=self._end)
        self._cache: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._rules: OrderedDict[str, tuple[str, tuple[str, ...]]] = OrderedDict()

    def compile(
        self,
        functions: Iterable[FunctionSpec],
        tool_choice: ToolChoice = "auto",
        parallel: bool = True,
    ) -> CompiledGrammar:
        """The grammar for a reply; the same object again for the same request.

        `tool_choice`: "auto" text, calls, or text and then calls; "none" text; "required" calls only;
        `{"name": …}` one call of that function. `parallel` allows several calls in one reply. Raises
        GrammarError for an unknown choice or two functions of one name, SchemaError for a schema that cannot
        be used.
        """
        specs = tuple(functions)
        choice = normalize_tool_choice(tool_choice, specs)
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise GrammarError(f"two functions are called {repeated!r}; rename one")
        if isinstance(choice, dict):
            callable_specs = tuple(spec for spec in specs if spec.name == choice["name"])
        else:
            callable_specs = () if choice == "none" else specs
        request = [choice, bool(parallel), self.max_calls, asdict(self.bounds)]
        identity = canonical_json([request, [spec.hash for spec in specs]])
        key = hashlib.sha256(identity.encode()).hexdigest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        grammar = self._compile(specs, callable_specs, choice, parallel, key)
        self._cache[key] = grammar
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return grammar

    def _compile(
        self,
        specs: tuple[FunctionSpec, ...],
        callable_specs: tuple[FunctionSpec, ...],
        choice: str | dict[str, str],
        parallel: bool,
        key: str,
    ) -> CompiledGrammar:
        rules = [self._rule(spec) for spec in callable_specs]
        source = self._source([rule for rule, _ in rules], choice, parallel)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error() and rules:
            rules = [self._lenient_rule(spec) for spec in callable_specs]
            source = self._source([rule for rule, _ in rules], choice, parallel)
            matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(f"{len(specs)} functions do not fit into one grammar: {_first_line(matcher)}")
        return CompiledGrammar(
            functions=specs,
            tool_choice=choice,
            parallel=parallel,
            notes=tuple(note for _, notes in rules for note in notes),
            hash=key,
            source=source,
            _start=Matcher(matcher, self.tokenizer.vocab_size, self._end),
        )

    def _source(self, rules: Sequence[str], choice: str | dict[str, str], parallel: bool) -> str:
        """The grammar in llguidance's dialect of Lark; `<[9]>` is the token with id 9."""
        several = parallel and not isinstance(choice, dict)
        lines = ["%llguidance {}"]
        if not rules:
            lines.append("start: TEXT")
        else:
            lines += [
                "start: TEXT | TEXT? calls" if choice == "auto" else "start: calls",
                f"calls: one{{1,{self.max_calls}}}" if several else "calls: one",
                f"one: <[{self._call}]> call <[{self._call_end}]>",
                "call: " + " | ".join(f"call_{index}" for index in range(len(rules))),
                *(f"call_{index}: %json {rule}" for index, rule in enumerate(rules)),
            ]
        if not rules or choice == "auto":
            lines.append(r"TEXT: /(.|\n)+/")
        return "\n".join(lines)

    def _rule(self, spec: FunctionSpec) -> tuple[str, tuple[str, ...]]:
        """The JSON Schema of one function's call as text, and notes on what it does not enforce."""
        if spec.hash in self._rules:
            self._rules.move_to_end(spec.hash)
            return self._rules[spec.hash]
        arguments, definitions, notes = self._bounded(spec)
        result = (self._call_schema(spec.name, arguments, definitions, lenient=False), notes)
        self._keep(spec, result)
        return result

    def _lenient_rule(self, spec: FunctionSpec) -> tuple[str, tuple[str, ...]]:
        """The rule of a function in a grammar that was refused: as it is if it compiles, else leniently."""
        rule, notes = self._rule(spec)
        problem = self._problem(rule)
        if not problem:
            return rule, notes
        arguments, definitions, notes = self._bounded(spec)
        rule = self._call_schema(spec.name, arguments, definitions, lenient=True)
        refused = self._problem(rule)
        if refused:
            raise SchemaError(f"function {spec.name}: no grammar can be made from its schema: {refused}")
        result = (rule, (*notes, f"{spec.name}: /: compiled leniently, only validated ({problem})"))
        self._keep(spec, result)
        return result

    def _bounded(self, spec: FunctionSpec) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
        check_schema(spec.parameters, f"function {spec.name}: parameters")
        try:
            arguments, definitions, notes = bounded_schema(spec.parameters, self.bounds)
        except SchemaError as error:
            raise SchemaError(f"function {spec.name}: {error}") from None
        return arguments, definitions, tuple(f"{spec.name}: {note}" for note in notes)

    def _keep(self, spec: FunctionSpec, rule: tuple[str, tuple[str, ...]]) -> None:
        self._rules[spec.hash] = rule
        while len(self._rules) > 4096:
            self._rules.popitem(last=False)

    def _problem(self, rule: str) -> str:
        failed, messages = LLMatcher.validate_grammar_with_warnings(
            f"%llguidance {{}}\nstart: %json {rule}", self._tokenizer, limits=_LIMITS
        )
        if not failed:
            return ""
        text = messages[0].splitlines()[0]
        return text.split("failed to compile JSON schema: ")[-1][:200]

    @staticmethod
    def _call_schema(name: str, arguments: Any, definitions: dict[str, Any], lenient: bool) -> str:
        schema = {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
            "x-guidance": {**_JSON_STYLE, "lenient": lenient},
        }
        if definitions:
            schema["$defs"] = definitions
        return json.dumps(schema, ensure_ascii=True)


class _Vocabulary:
    """The tokenizer as llguidance wants it: bytes of every token, and which of them are special."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id = tokenizer.special.end
        self.bos_token_id = None
        pieces = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
        self.special_token_ids = [index for index, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or f"<|special_{index}|>".encode() for index, piece in enumerate(pieces)]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _first_line(matcher: LLMatcher) -> str:
    return (matcher.get_error().strip().splitlines() or ["no reason given"])[0][:200]
