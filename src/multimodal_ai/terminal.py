"""A person at a terminal: asking once, chatting, approving calls, looking at a row of data.

It shows what the function loop and the renderer give and decides nothing itself: what runs is the loop's
decision, and side effects run only after a yes or where `--approve` said so beforehand. Even then a call with
a value out of a function's result is asked about, or denied where nobody can be asked.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from multimodal_ai.functions.canonical import parse_json, short_json
from multimodal_ai.functions.json_schema import check_schema
from multimodal_ai.functions.loop import FunctionLoop, LoopPolicy, LoopResult, ProposedCall
from multimodal_ai.functions.mcp import McpServer
from multimodal_ai.functions.registry import FunctionRegistry, load_functions
from multimodal_ai.functions.schema import FunctionSpec, canonical_arguments, validate_arguments
from multimodal_ai.functions.trace import Event
from multimodal_ai.inference.requests import Call, Delta, Reply, Request

NO_CALL, DENIED, FUNCTION_FAILED = 3, 4, 5  # exit codes of `ask`

HELP = """/image FILE    show the model an image with your next message
/functions     list the functions it may call
/reset         forget the conversation
/help          show this
/quit          leave (also Ctrl-D)"""


class Streaming(Protocol):
    """What chatting needs of the engine."""

    def stream(self, request: Request) -> Iterator[Delta]: ...


class Responder:
    """The engine as the function loop sees it; remembers every reply. `today` goes with every request."""

    def __init__(
        self,
        engine: Streaming,
        max_tokens: int,
        temperature: float = 0.0,
        response_format: Mapping[str, Any] | None = None,
        on_results: Callable[[Sequence[Mapping[str, Any]]], None] = lambda results: None,
        on_delta: Callable[[Delta], None] = lambda delta: None,
    ) -> None:
        self.engine, self.max_tokens, self.temperature = engine, max_tokens, temperature
        self.response_format = response_format
        self.on_results, self.on_delta = on_results, on_delta
        self.replies: list[Reply] = []
        self.today: datetime.date | None = None
        self._told = 0

    def __call__(
        self, messages: list[dict[str, Any]], functions: Sequence[FunctionSpec], images: Sequence[Any], tool_choice: Any
    ) -> Reply:
        self.tell(messages)
        request = Request(
            messages=messages,
            tools=functions,
            images=images,
            tool_choice=tool_choice,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            response_format=self.response_format,
            today=self.today,
        )
        reply = Reply()
        for delta in self.engine.stream(request):
            self.on_delta(delta)
            reply = delta.reply or reply
        self.replies.append(reply)
        return reply

    def start(self, told: int, today: datetime.date) -> None:
        """Forget former replies; `told` results of functions stand in the conversation already."""
        self.replies, self._told, self.today = [], told, today

    def tell(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Pass on the results of functions that are new in a conversation."""
        results = [message for message in messages if message["role"] == "tool"]
        if len(results) > self._told:
            self.on_results(results[self._told :])
        self._told = len(results)


# -- asking once ----------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What one request led to. `calls` hold name, arguments, confidence, sources, status and result; `format_errors`
    says what of the response format the answer breaks.
    """

    answer: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    stopped_because: str = "answer"
    steps: int = 1
    seconds: float = 0.0
    trigger: dict[str, float] | None = None
    format_errors: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)

    def exit_code(self, require_call: bool = False) -> int:
        """See the module `cli`."""
        if require_call and not self.calls:
            return NO_CALL
        if any(call["status"] == "denied" for call in self.calls):
            return DENIED
        unfinished = bool(self.calls) and self.calls[-1]["status"] != "finished"
        return FUNCTION_FAILED if unfinished or self.stopped_because != "answer" or self.format_errors else 0

    def show_end(self, err: Console) -> None:
        """Why it ended, where that was not the answer, and what is wrong with its format."""
        if self.stopped_because != "answer":
            err.print(f"stopped: {self.stopped_because.replace('_', ' ')}", style="yellow", highlight=False)
        for problem in self.format_errors:
            err.print(f"the answer does not fit the format: {problem}", style="yellow", markup=False, highlight=False)


def ask(
    engine: Streaming,
    request: str,
    *,
    images: Sequence[Any] = (),
    functions: Path | None = None,
    mcp: Sequence[str] = (),
    approval: str = "ask",
    system: str | None = None,
    max_steps: int = 8,
    max_tokens: int = 256,
    response_format: Mapping[str, Any] | None = None,
    trace: Path | None = None,
    today: datetime.date | None = None,
    console: Console | None = None,
    out: Console | None = None,
) -> Outcome:
    """Put one request through the function loop.

    Args:
        mcp: commands or addresses of MCP servers, whose tools are offered beside the functions.
        approval: for calls with side effects: "approve", "deny" or "ask".
        response_format: binds the answer, not the calls; see `read_response_format`.
        trace: where to write what happened, as JSON lines.
        today: the day that "tomorrow" is counted from; the present one by default.
        console: for questions, and for cards of calls where the answer is shown.
        out: where the answer is shown as it comes; nowhere by default.

    Raises:
        ValueError: the request does not fit the model, an image cannot be read, the functions are broken.
    """
    console = console or _stderr()
    with contextlib.ExitStack() as stack:
        registry = open_functions(functions, mcp, stack, console)
        display = Display(out, console) if out is not None else None
        responder = Responder(engine, max_tokens, response_format=response_format)
        if display is not None:
            responder.on_results, responder.on_delta = display.results, display.delta
        today = today or datetime.date.today()
        responder.start(0, today)
        policy = _policy(approval, today, max_steps)
        loop = FunctionLoop(responder, registry, policy, approver(approval, console, display))
        if display is not None:
            loop.on_event = display.event
        messages = [{"role": "system", "content": system}] if system else []
        began = time.monotonic()
        result = loop.run([*messages, user_message(request, len(images))], images)
        responder.tell(result.messages)
        if trace is not None:
            result.trace.save(trace)
        outcome = _outcome(result, responder.replies, time.monotonic() - began)
        if out is not None:
            out.print()
            outcome.show_end(console)
        return outcome


def open_functions(
    functions: Path | None, mcp: Sequence[str], stack: contextlib.ExitStack, console: Console
) -> FunctionRegistry:
    """The functions of a file and of MCP servers; connections stay open as long as `stack`."""
    registry = load_functions(functions) if functions else FunctionRegistry()
    for command in mcp:
        server = stack.enter_context(McpServer(command))
        server.add_to(registry)
        for problem in server.refused:
            console.print(f"left out {problem}", style="yellow", markup=False, highlight=False)
    return registry


def offered_specs(
    file: Path | None, mcp: Sequence[str], stack: contextlib.ExitStack, console: Console
) -> tuple[FunctionSpec, ...]:
    """What a model would be shown of a Python file, of a JSON file with tools, and of MCP servers."""
    if file is None or file.suffix != ".json":
        return open_functions(file, mcp, stack, console).specs
    tools = parse_json(file.read_text("utf-8"))
    if not isinstance(tools, list):
        raise ValueError(f"{file}: expected a list of tools, each with name, description and parameters")
    return (*map(FunctionSpec.from_tool, tools), *open_functions(None, mcp, stack, console).specs)


def read_response_format(given: str | None) -> dict[str, Any] | None:
    """The response format that a person names: `json_object`, or the file of a JSON Schema. None for free text.

    Raises ValueError that names the file where it holds no JSON, or no schema that can be used.
    """
    if given is None:
        return None
    if given == "json_object":
        return {"type": "json_object"}
    file = Path(given)
    if not file.is_file():
        raise FileNotFoundError(f"{given}: no such file; give json_object, or the file of a JSON Schema")
    try:
        schema = parse_json(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{file}: expected a JSON Schema, which is an object, got {short_json(schema)}")
    check_schema(schema, str(file))
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def image_file(path: str) -> str:
    """The path of an image that a person named. Raises FileNotFoundError in words for a person."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file" + ("" if file.is_absolute() else f" in {Path.cwd()}"))
    return str(file)


def user_message(text: str, images: int = 0) -> dict[str, Any]:
    """A user turn with so many images before its text."""
    if not images:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def _policy(approval: str, today: datetime.date, max_steps: int = 8) -> LoopPolicy:
    # Whoever says --approve has decided about low confidence; where a value came from is still looked at.
    approved = approval == "approve"
    return LoopPolicy(auto_approve=approved, auto_approve_confidence=0.0, max_steps=max_steps, today=today)


def _outcome(result: LoopResult, replies: Sequence[Reply], seconds: float) -> Outcome:
    results = {message["tool_call_id"]: message["content"] for message in result.messages if message["role"] == "tool"}
    ends = {
        event.call: event.kind for event in result.events if event.kind in ("finished", "failed", "denied", "blocked")
    }
    calls = []
    proposed = [call for reply in replies for call in reply.calls]
    for number, call in enumerate(proposed, 1):
        if number in ends:
            calls.append(
                {
                    "name": call.name,
                    "arguments": call.arguments,
                    "confidence": call.confidence,
                    "sources": {name: asdict(source) for name, source in call.sources.items()},
                    "status": ends[number],
                    "result": results.get(call.id, ""),
                }
            )
    trigger = replies[0].trigger if replies else None
    problems = replies[-1].format_errors if replies else ()
    return Outcome(result.answer, calls, result.stopped_because, len(replies), seconds, trigger, problems)


def _stderr() -> Console:
    return Console(stderr=True)


# -- approval -------------------------------------------------------------------------------------------

Decision = Literal["allow", "deny"] | Mapping[str, Any]


def approver(approval: str, console: Console, display: Display | None = None) -> Callable[[ProposedCall], Decision]:
    """Who decides about a call with side effects, under "approve", "deny" or "ask".

    Under "approve" the loop only comes here with calls it has doubts about. A call that is asked about needs no other
    card on the display.
    """

    def refuse(call: ProposedCall) -> Decision:
        console.print(f"denied {call.name}: {'; '.join(call.reasons)}", style="yellow", markup=False, highlight=False)
        return "deny"

    def prompt(call: ProposedCall) -> Decision:
        if display is not None:
            display.shown.add(call.id)
        return ask_approval(call, console)

    if approval == "deny" or (approval == "approve" and not sys.stdin.isatty()):
        return refuse
    return prompt


def ask_approval(call: ProposedCall, console: Console) -> Decision:
    """Ask a person; nothing but a clear yes runs the call, and the end of the input is a no."""
    reasons = Text("needs your approval: " + "; ".join(call.reasons), style="yellow")
    console.print(
        _panel(
            call.name,
            call.confidence,
            Group(call_table(call.arguments, call.origins, call.confidences), reasons),
            "yellow",
        )
    )
    while True:
        try:
            given = console.input("Run it? \\[y]es, \\[n]o, \\[e]dit: ").strip().lower()
        except EOFError:
            return "deny"
        if given in ("y", "yes"):
            return "allow"
        if given in ("n", "no"):
            return "deny"
        if given in ("e", "edit"):
            edited = _edited(call, console)
            if edited is not None:
                return edited


def _edited(call: ProposedCall, console: Console) -> dict[str, Any] | None:
    """Arguments typed by the person, or None where they do not fit."""
    try:
        arguments = canonical_arguments(call.function, console.input("Arguments as JSON: "))
    except (ValueError, EOFError) as error:
        console.print(str(error) or "no arguments given", style="red", markup=False, highlight=False)
        return None
    problems = validate_arguments(call.function, arguments)
    for problem in problems:
        console.print(str(problem), style="red", markup=False, highlight=False)
    return None if problems else arguments


def call_table(arguments: Mapping[str, Any], origins: Mapping[str, str], sure: Mapping[str, float]) -> Table:
    """Arguments as rows: name, value, where it came from, how sure the model is of it."""
    table = Table.grid(padding=(0, 2))
    for name, value in arguments.items():
        origin = origins.get(name, "").replace("_", " ")
        style = "red" if origin.startswith("function") else "dim"
        share = f"{sure[name]:.0%}" if name in sure else ""
        shown = Text(json.dumps(value, ensure_ascii=False))
        table.add_row(Text(name, style="dim"), shown, Text(origin, style=style), Text(share, style="dim"))
    return table


def _panel(name: str, confidence: float | None, body: Any, style: str = "cyan") -> Panel:
    title = Text(name, style="bold")
    sure = "" if confidence is None else f"{confidence:.0%} sure"
    return Panel(body, title=title, title_align="left", subtitle=sure, subtitle_align="right", border_style=style)


# -- what happens, as it happens -------------------------------------------------------------------------


class Display:
    """Shows a run while it goes on: text as it is written, a card for each call, and what it gave.

    out: for text; err: for everything else. The same console serves for both.
    """

    def __init__(self, out: Console, err: Console) -> None:
        self.out, self.err = out, err
        self.start()

    def start(self) -> None:
        """A new run begins."""
        self.shown: set[str] = set()  # calls that have a card, by id
        self._calls: list[Call] = []
        self._in_text = False

    def delta(self, delta: Delta) -> None:
        """Take a piece of a reply."""
        if delta.kind == "text":
            self.out.print(delta.text, end="", markup=False, highlight=False, soft_wrap=True)
            self._in_text = True
        elif delta.kind == "call_end" and delta.call is not None:
            self._calls.append(delta.call)

    def event(self, event: Event) -> None:
        """Take a step of a call; it gets its card when it starts."""
        if event.kind == "started" and event.call <= len(self._calls):
            self._card(self._calls[event.call - 1])

    def results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Take what calls gave; one that never started gets its card now."""
        for result in results:
            for call in self._calls:
                if call.id == result["tool_call_id"]:
                    self._card(call)
            self.err.print(Text(f"{result['name']} → {result['content']}", style="dim"))

    def _card(self, call: Call) -> None:
        if call.id in self.shown:
            return
        self.shown.add(call.id)
        if self._in_text and self.out is self.err:
            self.err.print()
            self._in_text = False
        origins = {name: source.origin for name, source in call.sources.items()}
        sure = {name: source.confidence for name, source in call.sources.items()}
        self.err.print(_panel(call.name, call.confidence, call_table(call.arguments, origins, sure)))


# -- chatting -------------------------------------------------------------------------------------------


def chat(
    engine: Streaming,
    *,
    functions: Path | None = None,
    mcp: Sequence[str] = (),
    system: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    console: Console | None = None,
) -> None:
    """Talk until `/quit` or the end of the input. A message that fails leaves the conversation as it was."""
    console = console or Console()
    with contextlib.ExitStack() as stack:
        registry = open_functions(functions, mcp, stack, console)
        Chat(engine, registry, system, max_tokens, temperature, console).run()


class Chat:
    """A conversation at the terminal, with its history and images."""

    def __init__(
        self,
        engine: Streaming,
        registry: FunctionRegistry,
        system: str | None,
        max_tokens: int,
        temperature: float,
        console: Console,
    ) -> None:
        self.console, self.registry = console, registry
        self.display = Display(console, console)
        self.responder = Responder(
            engine, max_tokens, temperature, on_results=self.display.results, on_delta=self.display.delta
        )
        self.opening = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget everything said and shown."""
        self.messages: list[dict[str, Any]] = list(self.opening)
        self.images: list[Any] = []
        self.waiting: list[Any] = []  # images for the next message

    def run(self) -> None:
        """Read, answer, repeat."""
        _enable_line_editing()
        self.console.print("/help shows the commands, /quit leaves.", style="dim")
        while True:
            try:
                line = self.console.input("[bold]you ›[/] ").strip()
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self.console.print("\n/quit or Ctrl-D leaves", style="dim")
                continue
            if line in ("/quit", "/exit", "/q"):
                return
            try:
                if line.startswith("/"):
                    self._command(*line.split(maxsplit=1))
                elif line:
                    self._say(line)
            except (ValueError, OSError) as error:
                self.console.print(f"error: {error}", style="red", markup=False, highlight=False)
            except KeyboardInterrupt:
                self.console.print("\n(stopped; the conversation stands as before)", style="yellow")

    def _command(self, command: str, argument: str = "") -> None:
        if command == "/reset":
            self.reset()
            self.console.print("forgotten", style="dim")
        elif command == "/functions":
            for spec in self.registry.specs:
                mark = " (asks first)" if spec.side_effect else ""
                parameters = ", ".join(name + "?" * (name in spec.optional) for name in spec.parameter_names)
                self.console.print(Text(f"{spec.name}({parameters}){mark}  {spec.description}"))
            if not len(self.registry):
                self.console.print("none; start with --functions FILE.py", style="dim")
        elif command == "/image":
            self._add_image(argument)
        elif command == "/help":
            self.console.print(HELP, markup=False, highlight=False)
        else:
            self.console.print(f"unknown command {command}; /help lists them", style="red", markup=False)

    def _add_image(self, path: str) -> None:
        from multimodal_ai.data.image_processor import ImageProcessor

        if not path:
            raise ValueError("/image needs a file, for example /image meter.png")
        file = image_file(path.strip("'\""))
        pixels = ImageProcessor().load(file)
        self.waiting.append(file)
        self.console.print(f"{pixels.shape[2]} × {pixels.shape[1]} pixels, goes with your next message", style="dim")

    def _say(self, text: str) -> None:
        messages = [*self.messages, user_message(text, len(self.waiting))]
        images = [*self.images, *self.waiting]
        today = datetime.date.today()  # a chat may go on past midnight
        self.responder.start(sum(message["role"] == "tool" for message in messages), today)
        self.display.start()
        approve = approver("ask", self.console, self.display)
        loop = FunctionLoop(self.responder, self.registry, _policy("ask", today), approve, self.display.event)
        result = loop.run(messages, images)
        self.responder.tell(result.messages)
        self.console.print()
        if result.stopped_because != "answer":
            reason = result.stopped_because.replace("_", " ")
            self.console.print(f"stopped: {reason}", style="yellow", highlight=False)
        self.messages, self.images, self.waiting = result.messages, images, []


def _enable_line_editing() -> None:
    """History and cursor keys at the prompt, where the platform has them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
