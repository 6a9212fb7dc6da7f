"""The tools of an MCP server (Model Context Protocol) as functions. Needs the extra `mcp`.

The server's list is read once, when the connection opens: names, descriptions and schemas stay what they were
then, whatever the server says later. A server only answers calls; it cannot ask the model, the user or this
machine for anything. What it returns is a function's result like any other, and as little trusted.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import shlex
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.json_schema import SchemaError, check_schema
from multimodal_ai.functions.registry import FunctionRegistry, RegisteredFunction
from multimodal_ai.functions.schema import FunctionSpec

_MOST_PAGES = 100
_LONGEST_NAME = 60  # characters of a server's name, which is shown
_LONGEST_DESCRIPTION = 300  # characters; cards have a limit, and servers write for larger models


class McpError(Exception):
    """A tool of an MCP server that reports an error."""


class McpServer:
    """A connection to one MCP server, as a context manager.

    `server`: a command that speaks over stdin and stdout, as one string or as a list of words; an http(s) address;
    or what `mcp.Client` takes, such as a server object in this process. `timeout`: seconds for connecting and for
    each call. `prefix` stands before every name, for servers that share names.

    A tool has side effects unless its server says `readOnlyHint` and does not say `destructiveHint`;
    `trust_annotations=False` disregards what it says. `functions` are its tools, `refused` says why one is missing.
    A command gets only the few variables of the environment that the protocol's library passes on.
    """

    def __init__(
        self, server: str | Sequence[str] | Any, timeout: float = 30.0, prefix: str = "", trust_annotations: bool = True
    ) -> None:
        if importlib.util.find_spec("mcp") is None:
            raise ValueError("MCP servers need the package mcp: pip install 'multimodal-ai[mcp]'")
        self.server, self.timeout, self.prefix = server, timeout, prefix
        self.trust_annotations = trust_annotations
        self.functions: tuple[RegisteredFunction, ...] = ()
        self.refused: tuple[str, ...] = ()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> McpServer:
        """Connect and read the list of tools. Raises ValueError when that fails."""
        tools: Future[list[Any]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(tools)), name="MCP", daemon=True)
        self._thread.start()
        try:
            listed = tools.result(self.timeout)
        except BaseException as error:
            self.close()
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if not isinstance(error, Exception):
                raise
            reason = f"no answer within {self.timeout:g} seconds" if isinstance(error, TimeoutError) else error
            raise ValueError(f"MCP server {self.server}: {reason or type(error).__name__}") from error
        functions, refused = [], []
        for tool in listed:
            try:
                functions.append(self._function(tool))
            except SchemaError as error:
                refused.append(str(error))
        self.functions, self.refused = tuple(functions), tuple(refused)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the server's process if it was started here. Calls under way fail."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(10)

    def add_to(self, registry: FunctionRegistry) -> None:
        """Register all functions. Raises ValueError when a name is taken."""
        for function in self.functions:
            registry.add(function)

    async def _serve(self, tools: Future[list[Any]]) -> None:
        """Hold the connection until it is cancelled; entering and leaving it must happen in one task."""
        import mcp  # takes half a second; only whoever has a server pays it

        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        try:
            async with mcp.Client(self._target(mcp), read_timeout_seconds=self.timeout) as client:
                self._client = client
                found, cursor = [], None
                for _ in range(_MOST_PAGES):
                    page = await client.list_tools(cursor=cursor)
                    found += page.tools
                    cursor = page.next_cursor
                    if not cursor:
                        break
                tools.set_result(found)
                await asyncio.Event().wait()
        except BaseException as error:
            if not tools.done():
                tools.set_exception(error)

    def _target(self, mcp: Any) -> Any:
        if isinstance(self.server, str) and self.server.startswith(("http://", "https://")):
            return self.server
        if not isinstance(self.server, (str, list, tuple)):
            return self.server
        words = shlex.split(self.server) if isinstance(self.server, str) else list(self.server)
        if not words:
            raise ValueError("the command is empty")
        parameters = mcp.StdioServerParameters(command=words[0], args=words[1:])
        return mcp.stdio_client(parameters, errlog=sys.__stderr__ or sys.stderr)

    def _function(self, tool: Any) -> RegisteredFunction:
        hints = tool.annotations if self.trust_annotations else None
        read_only = bool(hints and hints.read_only_hint and not hints.destructive_hint)
        description = " ".join((tool.description or tool.title or "").split("\n\n")[0].split())
        if len(description) > _LONGEST_DESCRIPTION:
            description = description[: _LONGEST_DESCRIPTION - 1] + "…"
        spec = FunctionSpec(f"{self.prefix}{tool.name}", description, tool.input_schema, side_effect=not read_only)
        check_schema(spec.parameters, f"function {spec.name}: parameters")
        call = functools.partial(self._call, tool.name)
        info = self._client.server_info
        server = " ".join(info.name.split())[:_LONGEST_NAME] if info else ""
        return RegisteredFunction(
            spec, call, timeout=self.timeout, read_only=read_only, remote=True, server=server or "MCP server"
        )

    def _call(self, tool: str, /, **arguments: Any) -> str:
        if self._thread is None or not self._thread.is_alive():
            raise McpError("the server is no longer connected")
        request = self._client.call_tool(tool, arguments, read_timeout_seconds=self.timeout)
        result = asyncio.run_coroutine_threadsafe(request, self._loop).result(self.timeout)
        pieces = [_text(block) for block in result.content]
        if not pieces and result.structured_content is not None:
            pieces = [canonical_json(result.structured_content)]
        text = "\n".join(pieces) or "done"
        if result.is_error:
            raise McpError(text)
        return text


def _text(block: Any) -> str:
    """A piece of a result as text; pictures, sounds and the like are named, not shown."""
    inner = getattr(block, "resource", block)
    text = getattr(inner, "text", None)
    return text if isinstance(text, str) else f"[{block.type} left out]"
