"""Functions: what they are, what calls of them may look like, and how they are run safely."""

from multimodal_ai.functions.bounds import GenerationBounds, schema_report
from multimodal_ai.functions.call_parser import CallParser, ParsedCall, ParsedReply, ParserEvent, parse_calls
from multimodal_ai.functions.grammar import CompiledGrammar, GrammarCompiler, GrammarError, Matcher
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

__all__ = [
    "ArgumentError",
    "CallParser",
    "CompiledGrammar",
    "FunctionSpec",
    "GenerationBounds",
    "GrammarCompiler",
    "GrammarError",
    "Matcher",
    "ParsedCall",
    "ParsedReply",
    "ParserEvent",
    "SchemaError",
    "canonical_arguments",
    "canonical_json",
    "check_schema",
    "parse_calls",
    "resolve_schema",
    "schema_report",
    "validate_arguments",
]
