"""Functions: what they are, what calls of them may look like, and how they are run safely."""

from multimodal_ai.functions.bounds import GenerationBounds, schema_report
from multimodal_ai.functions.call_parser import CallParser, ParsedCall, ParsedReply, ParserEvent, parse_calls
from multimodal_ai.functions.choices import GrammarError
from multimodal_ai.functions.execution import TransientError
from multimodal_ai.functions.grammar import CompiledGrammar, GrammarCompiler, Matcher
from multimodal_ai.functions.loop import FunctionLoop
from multimodal_ai.functions.mcp import McpServer
from multimodal_ai.functions.policy import LoopPolicy, LoopResult, ProposedCall
from multimodal_ai.functions.registry import FunctionRegistry, RegisteredFunction, function, load_functions
from multimodal_ai.functions.replay import replay
from multimodal_ai.functions.schema import (
    ArgumentError,
    FunctionSpec,
    SchemaError,
    canonical_arguments,
    canonical_json,
    check_schema,
    resolve_schema,
    validate_arguments,
)
from multimodal_ai.functions.trace import Event, Trace

__all__ = [
    "ArgumentError",
    "CallParser",
    "CompiledGrammar",
    "Event",
    "FunctionLoop",
    "FunctionRegistry",
    "FunctionSpec",
    "GenerationBounds",
    "GrammarCompiler",
    "GrammarError",
    "LoopPolicy",
    "LoopResult",
    "Matcher",
    "McpServer",
    "ParsedCall",
    "ParsedReply",
    "ParserEvent",
    "ProposedCall",
    "RegisteredFunction",
    "SchemaError",
    "Trace",
    "TransientError",
    "canonical_arguments",
    "canonical_json",
    "check_schema",
    "function",
    "load_functions",
    "parse_calls",
    "replay",
    "resolve_schema",
    "schema_report",
    "validate_arguments",
]
