"""From functions to a grammar over token ids.

With `call_parser` the only module of this package that knows tokens. A grammar allows text, calls, or text
and then calls, as the choice says; a call is `<function_call>{"name":"…","arguments":{…}}</function_call>` and
its marks are special tokens, so no text can imitate them and no text may contain them. A grammar never lets
generation run without end inside a call, and it never repairs: what it cannot express is noted, and
validated when the call is complete.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from multimodal_ai.functions.bounds import GenerationBounds
from multimodal_ai.functions.call_parser import TokenizerLike
from multimodal_ai.functions.call_rules import Rule, answer_rule, call_rule, free_string
from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.choices import Choice, GrammarError, ToolChoice, normalize_tool_choice, response_schema
from multimodal_ai.functions.copying import CopiedStrings
from multimodal_ai.functions.json_schema import SchemaError
from multimodal_ai.functions.schema import FunctionSpec

_LIMITS = LLParserLimits(verbose_errors=False)


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

    `notes` says what of the schemas it does not enforce, one line each, starting with the function's name (or
    "response_format").
    """

    functions: tuple[FunctionSpec, ...]
    tool_choice: Choice
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
    grammars are kept (least recently used ones go first). `benchmarks/grammar.py` says what compiling costs.
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
        self._rules: OrderedDict[str, Rule] = OrderedDict()

    def compile(
        self,
        functions: Iterable[FunctionSpec],
        tool_choice: ToolChoice | Choice = "auto",
        parallel: bool = True,
        response_format: Mapping[str, Any] | None = None,
        copied: CopiedStrings | None = None,
    ) -> CompiledGrammar:
        """The grammar for a reply; the same object again for the same request.

        `tool_choice`: "auto" text, calls, or text and then calls; "none" text; "required" calls only;
        `{"name": …}` one call of that function; a subset as `normalize_tool_choice` reads it. `parallel` allows
        several calls in one reply. `response_format` binds the text, never the calls: "auto" is then an answer
        that fits, or calls. `copied`: all that a parameter of type string without further constraint may say; None
        leaves it free. Raises GrammarError for an unknown choice or two functions of one name, SchemaError
        for a schema that cannot be used.
        """
        specs = tuple(functions)
        choice = normalize_tool_choice(tool_choice, specs)
        answer = response_schema(response_format)
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise GrammarError(f"two functions are called {repeated!r}; rename one")
        request = [asdict(choice), bool(parallel), answer, self.max_calls, asdict(self.bounds)]
        if copied is not None:
            request.append(asdict(copied))
        identity = canonical_json([request, [spec.hash for spec in specs]])
        key = hashlib.sha256(identity.encode()).hexdigest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        grammar = self._compile(specs, choice, parallel, answer, copied, key)
        self._cache[key] = grammar
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return grammar

    def _compile(
        self,
        specs: tuple[FunctionSpec, ...],
        choice: Choice,
        parallel: bool,
        answer: dict[str, Any] | None,
        copied: CopiedStrings | None,
        key: str,
    ) -> CompiledGrammar:
        wanted: list[FunctionSpec | dict[str, Any]] = [spec for spec in specs if spec.name in choice.names]
        if answer is not None and choice.mode != "required":
            wanted.append(answer)
        rules = [self._rule(item) for item in wanted]
        matcher, source = self._build(rules, choice, parallel, answer is not None, copied)
        if matcher.is_error() and rules:
            rules = [self._lenient_rule(item) for item in wanted]
            matcher, source = self._build(rules, choice, parallel, answer is not None, copied)
        if matcher.is_error():
            raise GrammarError(f"{len(specs)} functions do not fit into one grammar: {_first_line(matcher)}")
        return CompiledGrammar(
            functions=specs,
            tool_choice=choice,
            parallel=parallel,
            notes=tuple(note for rule in rules for note in rule.notes),
            hash=key,
            source=source,
            _start=Matcher(matcher, self.tokenizer.vocab_size, self._end),
        )

    def _build(
        self, rules: Sequence[Rule], choice: Choice, parallel: bool, formatted: bool, copied: CopiedStrings | None
    ) -> tuple[LLMatcher, str]:
        source = self._source(rules, choice, parallel, formatted, copied)
        return LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS), source

    def _source(
        self, rules: Sequence[Rule], choice: Choice, parallel: bool, formatted: bool, copied: CopiedStrings | None
    ) -> str:
        """The grammar in llguidance's dialect of Lark; `<[9]>` is the token with id 9."""
        lines = ["%llguidance {}"]
        text = "answer" if formatted else "TEXT"
        if choice.mode == "none":
            lines.append(f"start: {text}")
        elif choice.mode == "auto":
            lines.append("start: answer | calls" if formatted else "start: TEXT | TEXT? calls")
        else:
            lines.append("start: calls")
        calls = list(rules)
        if choice.mode != "required":
            lines.append(f"answer: {calls.pop().body}" if formatted else r"TEXT: /(.|\n)+/")
        if calls:
            bodies = [rule.body for rule in calls]
            if copied is not None:
                bodies = [body.replace(free_string(self.bounds), "copied") for body in bodies]
                lines += copied.rules("copied")
            lines += [
                f"calls: one{{1,{self.max_calls}}}" if parallel and not choice.single else "calls: one",
                f"one: <[{self._call}]> call <[{self._call_end}]>",
                "call: " + " | ".join(f"call_{index}" for index in range(len(calls))),
                *(f"call_{index}: {body}" for index, body in enumerate(bodies)),
            ]
        values = {name: document for rule in rules for name, document in rule.values.items()}
        lines += [f"{name}: %json {document}" for name, document in values.items()]
        return "\n".join(lines)

    def _rule(self, item: FunctionSpec | dict[str, Any]) -> Rule:
        """The rule of a function's call, or of an answer under a schema."""
        key = _key(item)
        if key in self._rules:
            self._rules.move_to_end(key)
            return self._rules[key]
        made = call_rule(item, self.bounds) if isinstance(item, FunctionSpec) else answer_rule(item, self.bounds)
        return self._keep(key, made)

    def _lenient_rule(self, item: FunctionSpec | dict[str, Any]) -> Rule:
        """The rule of a function in a grammar that was refused: what compiles as it is, the rest leniently."""
        rule = self._rule(item)
        problems = {name: found for name, document in rule.values.items() if (found := self._problem(document))}
        if not problems:
            return rule
        label = item.name if isinstance(item, FunctionSpec) else "response_format"
        lenient = rule.lenient(problems, label)
        refused = next((found for document in lenient.values.values() if (found := self._problem(document))), None)
        if refused:
            where = f"function {label}" if isinstance(item, FunctionSpec) else label
            raise SchemaError(f"{where}: no grammar can be made from its schema: {refused}")
        return self._keep(_key(item), lenient)

    def _keep(self, key: str, rule: Rule) -> Rule:
        self._rules[key] = rule
        while len(self._rules) > 4096:
            self._rules.popitem(last=False)
        return rule

    def _problem(self, document: str) -> str:
        """What the engine has against a value's schema, "" where nothing."""
        failed, messages = LLMatcher.validate_grammar_with_warnings(
            f"%llguidance {{}}\nstart: %json {document}", self._tokenizer, limits=_LIMITS
        )
        if not failed:
            return ""
        text = messages[0].splitlines()[0]
        return text.split("failed to compile JSON schema: ")[-1][:200]


def _key(item: FunctionSpec | dict[str, Any]) -> str:
    return item.hash if isinstance(item, FunctionSpec) else canonical_json(item)


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
