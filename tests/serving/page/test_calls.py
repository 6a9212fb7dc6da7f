"""Functions and calls on the page: offered, edited, approved, denied, answered, and where values came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from multimodal_ai.functions import FunctionRegistry, FunctionSpec, validate_arguments
from multimodal_ai.functions.registry import RegisteredFunction

from ..conftest import LOG_READING, Running
from .visitor import IMPORTED, answered, bodies, expect, load, offer, say


def test_functions_are_pasted_and_their_mistakes_shown(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    page.get_by_role("button", name="Functions").click()
    panel = page.get_by_role("complementary", name="Functions")
    field, add = panel.get_by_label("Add functions"), panel.get_by_role("button", name="Check and add")
    broken = {**LOG_READING["function"], "parameters": {"type": "object", "properties": {"a": {"type": "objekt"}}}}
    for text, words in (
        ('{"name": ', "Not JSON"),
        ('{"parameters": {}}', "name"),
        ('{"name": "f", "parameters": 3}', "must be a JSON Schema"),
        (json.dumps(broken), "objekt"),
    ):
        field.fill(text)
        add.click()
        expect(panel.get_by_role("alert")).to_contain_text(words)
    field.fill(json.dumps(LOG_READING))
    add.click()
    box = panel.get_by_role("checkbox", name="log_reading")
    expect(box).to_be_checked()
    expect(page.get_by_role("button", name="Functions (1)")).to_be_visible()
    panel.get_by_label("The model calls one").select_option("required")
    page.reload()
    expect(page.get_by_role("button", name="Functions (1)")).to_be_visible()
    page.get_by_role("button", name="Functions (1)").click()
    expect(panel.get_by_label("The model calls one")).to_have_value("required")
    box.uncheck()
    expect(page.get_by_role("button", name="Functions", exact=True)).to_be_visible()


def test_a_call_is_edited_approved_answered_and_goes_on(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING, toolChoice="log_reading"))
    sent = bodies(page)
    say(page, "Log 12 for the garden")
    answered(page)
    card = page.get_by_role("region", name="Call of log_reading").first
    expect(card).to_contain_text("waits for you")
    expect(card).to_contain_text("% sure")
    expect(card).to_contain_text("meter")
    card.get_by_role("button", name="Edit").click()
    card.get_by_label("Arguments as JSON").fill('{"meter": "cellar", "value": 7}')
    card.get_by_role("button", name="Save").click()
    expect(card.get_by_role("alert")).to_contain_text("meter")
    card.get_by_label("Arguments as JSON").fill('{"meter": "kitchen", "value": 7}')
    card.get_by_role("button", name="Save").click()
    expect(card).to_contain_text("edited by you")
    cards = page.get_by_role("region", name="Call of log_reading")
    for other in range(1, cards.count()):
        cards.nth(other).get_by_role("button", name="Deny").click()
    card.get_by_role("button", name="Approve").click()
    card.get_by_label("Result of log_reading").fill('{"status":"stored"}')
    card.get_by_role("button", name="Give result").click()
    expect(page.get_by_role("article", name="Assistant")).to_have_count(2)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    call = sent[1]["messages"][1]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"meter": "kitchen", "value": 7}
    answer = sent[1]["messages"][2]
    assert answer["tool_call_id"] == call["id"] and answer["content"] == '{"status":"stored"}'
    assert sent[0]["tool_choice"]["function"]["name"] == "log_reading" and sent[1]["tool_choice"] == "auto"
    expect(card).to_contain_text("ok")
    card.get_by_text("Result", exact=True).click()
    expect(card).to_contain_text('{"status":"stored"}')


def test_calls_fit_their_schema_and_denied_ones_go_back(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING, toolChoice="required"))
    sent = bodies(page)
    say(page, "Log it")
    answered(page)
    cards = page.get_by_role("region", name="Call of log_reading")
    shown = cards.count()
    assert shown
    for number in range(shown):
        cards.nth(number).get_by_role("button", name="Deny").click()
    expect(cards.first).to_contain_text("denied")
    expect(page.get_by_role("article", name="Assistant")).to_have_count(2)
    message, *results = sent[1]["messages"][1:]
    assert len(message["tool_calls"]) == len(results) == shown
    spec = FunctionSpec.from_tool(LOG_READING)
    for call in message["tool_calls"]:
        assert not validate_arguments(spec, json.loads(call["function"]["arguments"]))
    assert all("denied" in result["content"] for result in results)


PARTS = """async (text) => {
  const {partialArguments} = await import('/page/arguments.js');
  const whole = partialArguments(text);
  for (let cut = 0; cut <= text.length; cut++) {
    const parts = partialArguments(text.slice(0, cut));
    parts.forEach(([name, value], at) => {
      if (name !== whole[at][0] || !whole[at][1].startsWith(value)) throw new Error(text.slice(0, cut));
    });
  }
  return whole;
}"""


def test_arguments_are_read_while_they_arrive(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    given = {"a": 'x,{"}', "b,:": [1, {"c": ":"}], "": {}, "d\\": None, "e": "ü\n"}
    text = json.dumps(given, separators=(",", ":"))
    whole = page.evaluate(PARTS, text)
    assert {name: json.loads(value) for name, value in whole} == given
    assert page.evaluate(PARTS, "{}") == []


LIT = "[...(CSS.highlights.get('provenance') ?? [])].map(String)"


def test_the_words_that_an_argument_came_from_light_up(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING))
    load(page, IMPORTED)
    page.get_by_role("button", name="Meters", exact=True).click()
    card = page.get_by_role("region", name="Call of log_reading")
    expect(card).to_contain_text("83% sure")
    expect(card).to_contain_text("written by the model")
    source = card.get_by_role("button", name="from your words, 100% copied")
    source.hover()
    assert page.evaluate(LIT) == ["Garden"]
    page.mouse.move(0, 0)
    assert page.evaluate(LIT) == []
    source.focus()
    assert page.evaluate(LIT) == ["Garden"]
    found = page.evaluate(
        "async () => (await import('/page/provenance.js')).findValue({a: [12, true]}, 'user').map(String)"
    )
    assert found == ["12"], "not the 12 in 120"


def test_functions_stand_under_the_name_of_their_server(
    start: Callable[..., Running], visit: Callable[..., Any]
) -> None:
    registry = FunctionRegistry()
    for name, server in (
        ("get_time", ""),
        ("last_reading", "meters & <b>more</b>"),
        ("set_clock", "meters & <b>more</b>"),
    ):
        spec = FunctionSpec(name, "A function", {}, side_effect=name == "set_clock")
        registry.add(RegisteredFunction(spec, dict, read_only=name != "set_clock", server=server))
    page = visit(start(registry), offer(LOG_READING, toolChoice="none"))
    page.get_by_role("button", name="Functions (4)").click()
    panel = page.get_by_role("complementary", name="Functions")
    lists = panel.get_by_role("group", name="Functions offered").get_by_role("list")
    expect(lists).to_have_count(3)
    for heading, names in (
        ("Pasted here", ["log_reading"]),
        ("The server's own", ["get_time"]),
        ("MCP server meters & <b>more</b>", ["last_reading", "set_clock"]),
    ):
        expect(panel.get_by_role("heading", name=heading)).to_be_visible()
        expect(panel.get_by_role("list", name=heading).get_by_role("checkbox")).to_have_count(len(names))
        for name in names:
            expect(panel.get_by_role("list", name=heading).get_by_role("checkbox", name=name)).to_be_checked()
    box = panel.get_by_role("checkbox", name="last_reading")
    box.press("Space")
    expect(box).not_to_be_checked()
    expect(box).to_be_focused()
    sent = bodies(page)
    say(page, "Hello")
    answered(page)
    assert {tool["function"]["name"] for tool in sent[0]["tools"]} == {"log_reading", "get_time", "set_clock"}
    panel.get_by_text("Functions of an MCP server").click()
    expect(panel.get_by_text("serve --mcp COMMAND")).to_be_visible()


def test_the_server_runs_an_approved_call_of_its_own(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    registry, given = FunctionRegistry(), list[dict[str, Any]]()

    def store(**arguments: Any) -> str:
        given.append(arguments)
        return "stored"

    tool = LOG_READING["function"] | {"x-side-effect": True}
    registry.add(RegisteredFunction(FunctionSpec.from_tool(tool), store, server="meters"))
    for approval, state in ((False, "denied"), (True, "ok")):
        settings = {"toolChoice": "log_reading", "maxTokens": "200"}
        page = visit(start(registry, client_approval=approval), settings)
        sent = bodies(page)
        say(page, "Log 12 for the garden")
        answered(page)
        cards = page.get_by_role("region", name="Call of log_reading")
        count = cards.count()
        cards.first.get_by_role("button", name="Edit").click()
        cards.first.get_by_label("Arguments as JSON").fill('{"meter": "kitchen", "value": 7}')
        cards.first.get_by_role("button", name="Save").click()
        for other in range(1, count):
            cards.nth(other).get_by_role("button", name="Deny").click()
        cards.first.get_by_role("button", name="Approve").click()
        answered(page, 2)
        expect(cards.first).to_have_attribute("data-state", state)
        call, answer = sent[1]["messages"][1]["tool_calls"][0], sent[1]["messages"][2]
        assert answer["tool_call_id"] == call["id"] and ("stored" if approval else "denied") in answer["content"]
        assert given == [{"meter": "kitchen", "value": 7}] * approval
        expect(cards.first.get_by_role("button", name="Take back")).to_have_count(0)
        expect(cards.first).to_contain_text("edited by you")


def test_a_call_that_the_server_could_not_run_waits_again(
    start: Callable[..., Running], visit: Callable[..., Any]
) -> None:
    registry = FunctionRegistry()
    registry.add(RegisteredFunction(FunctionSpec.from_tool(LOG_READING), dict))
    page = visit(start(registry), {"toolChoice": "log_reading", "maxTokens": "200"})
    say(page, "Log 12 for the garden")
    answered(page)
    page.route("**/v1/calls", lambda route: route.abort())
    card = page.get_by_role("region", name="Call of log_reading").first
    card.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert").first).to_contain_text("cannot be reached")
    expect(card).to_contain_text("waits for you")
    expect(card.get_by_role("button", name="Approve")).to_be_visible()


def test_the_server_runs_its_own_functions(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    registry = FunctionRegistry()

    @registry.function(read_only=True)
    def get_time() -> str:
        """The time of day."""
        return "12:30"

    page = visit(start(registry), offer(toolChoice="get_time", execute=True, maxTokens="60"))
    expect(page.get_by_role("button", name="Functions (1)")).to_be_visible()
    sent = bodies(page)
    say(page, "What time is it?")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=60_000)
    assert sent[0]["x_execute"] is True and "tools" not in sent[0] and sent[0]["stream"] is True
    card = page.get_by_role("region", name="Call of get_time").first
    expect(card).to_contain_text("ok")
    card.get_by_text("Result", exact=True).click()
    expect(card).to_contain_text("12:30")
    expect(card.get_by_role("button", name="Approve")).to_have_count(0)


def test_a_run_on_the_server_grows_turn_by_turn(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    def chunk(content: str | None = None, **more: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": content} if content else {}, **more}]}

    def call(number: int, name: str, result: str | None) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = [
            {"type": "call_start", "call": number, "name": name},
            {"type": "arguments", "call": number, "arguments": '{"place":'},
            {"type": "call", "call": number, "arguments": '{"place":"shed"}', "x_confidence": 0.9, "x_sources": {}},
            {"type": "started", "call": number},
        ]
        ended = [{"type": "result", "call": number, "status": "finished", "result": result}] if result else []
        return [chunk(x_step=step) for step in steps + ended]

    registry = FunctionRegistry()
    registry.add(RegisteredFunction(FunctionSpec.from_tool(LOG_READING), dict))
    page = visit(start(registry), {"execute": True})
    for last in (None, "no"):
        chunks = [chunk("First I look. "), *call(1, "look", "a rake"), *call(2, "count", "3"), *call(3, "ask", last)]
        answer = "".join(f"data: {json.dumps(part)}\n\n" for part in chunks)
        if last:
            end = [chunk("Three rakes."), chunk(finish_reason="length", x_stopped_because="max_steps"), {"choices": []}]
            answer += "".join(f"data: {json.dumps(part)}\n\n" for part in end) + "data: [DONE]\n\n"
        page.route("**/v1/chat/completions", telling(answer))
        page.get_by_role("button", name="New chat").click()
        say(page, "Look")
        turns = page.get_by_role("article", name="Assistant")
        expect(turns).to_have_count(4 if last else 3)
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        expect(turns.first).to_contain_text("First I look.")
        cards = page.get_by_role("region", name="Call of")
        expect(cards).to_have_count(3)
        for number, (name, state) in enumerate((("look", "ok"), ("count", "ok"), ("ask", "ok" if last else "not run"))):
            expect(turns.nth(number)).to_contain_text(name)
            expect(cards.nth(number)).to_have_attribute("data-state", state)
        if last:
            expect(turns.last).to_contain_text("Three rakes.")
            expect(turns.last).to_contain_text("The server stopped: max steps.")
        else:
            expect(page.get_by_role("alert").first).to_contain_text("The connection broke")
        page.unroute("**/v1/chat/completions")


def telling(events: str) -> Callable[[Any], None]:
    return lambda route: route.fulfill(status=200, content_type="text/event-stream", body=events)
