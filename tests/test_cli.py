"""The command line: help, errors for a person, exit codes, and a whole request with calls."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from multimodal_ai import cli, terminal
from multimodal_ai.cli import app
from multimodal_ai.functions import Trace
from multimodal_ai.inference.requests import ArgumentSource, Call, Delta, Reply, Request

COMMANDS = [
    "quickstart",
    "train",
    "runs",
    "report",
    "eval",
    "ask",
    "chat",
    "serve",
    "tokenizer train",
    "data inspect",
    "data validate",
    "data prepare",
    "data recipes",
    "functions check",
    "model describe",
    "config reference",
]
FUNCTIONS = '''
from pathlib import Path

from multimodal_ai.functions.registry import function


@function(side_effect=True)
def log_reading(meter: str, value: int) -> str:
    """Store the reading of a meter."""
    with open(Path(__file__).with_name("log.txt"), "a") as file:
        file.write(f"{meter}={value}\\n")
    return f"stored {value}"


@function(read_only=True)
def last_reading(meter: str) -> int:
    """Look up the last reading."""
    return 41


@function(read_only=True)
def broken() -> str:
    """Always fails."""
    raise RuntimeError("no connection")
'''
runner = CliRunner()


class StreamingRules:
    """An engine that answers by a function of the request."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.answer, self.asked = answer, list[Request]()

    def stream(self, request: Request) -> Iterator[Delta]:
        self.asked.append(request)
        reply = self.answer(request)
        for piece in (reply.content[:2], reply.content[2:]):
            if piece:
                yield Delta("text", piece)
        for index, call in enumerate(reply.calls):
            yield Delta("call_end", index=index, call=call, name=call.name)
        yield Delta("end", reply=reply)


def calls_once(name: str = "log_reading", origin: str = "user", **arguments: Any) -> Callable[[Request], Reply]:
    """Calls at first; answers with the result once there is one."""

    def answer(request: Request) -> Reply:
        last = request.messages[-1]
        if last["role"] == "tool":
            return Reply(f"Done: {last['content']}")
        sources = {key: ArgumentSource(origin, 1.0) for key in arguments}  # type: ignore[arg-type]
        return Reply(calls=[Call("call_1", name, arguments, 0.9, sources)], finish_reason="tool_calls")

    return answer


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Request], Reply]], StreamingRules]:
    def use(answer: Callable[[Request], Reply]) -> StreamingRules:
        rules = StreamingRules(answer)
        monkeypatch.setattr(cli, "_engine", lambda *_: rules)
        return rules

    return use


# -- help and errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(command: str) -> None:
    done = runner.invoke(app, [*command.split(), "--help"], terminal_width=200)
    assert done.exit_code == 0
    assert f"Example: multimodal-ai {command}" in " ".join(done.output.replace("│", " ").split())


def test_help_needs_neither_torch_nor_much_time() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); from multimodal_ai.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'datasets', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "print(f'{time.perf_counter() - start:.2f} {sorted(heavy)}', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, heavy = done.stderr.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 3  # half a second on an idle machine; the import list above is the real guard


def test_runs_are_listed_without_torch_for_people_and_for_programs(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 12, "loss": 0.5}\n{"step": 1')
    record = {"stage": "alignment", "state": "failed", "total_steps": 20, "message": "step 13: no data [x]"}
    command = {"command": ["multimodal-ai", "train", "-c", "a.yaml"], "folder": "/there"}
    (folder / "run.json").write_text(json.dumps(record | command))
    program = (
        "import sys; from multimodal_ai.cli import app\n"
        f"try: app(['runs', {str(tmp_path)!r}, *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'datasets', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == "[]"
    for words in ("failed", "alignment", "12 of 20", "0.5", "step 13: no data [x]", "cd /there && multimodal-ai train"):
        assert words in shown.stdout, words
    listed = runner.invoke(app, ["runs", str(tmp_path), "--json"])
    [run] = json.loads(listed.stdout)
    assert run["path"] == str(folder) and run["step"] == 12 and run["resume"].endswith("train -c a.yaml")
    (tmp_path / "empty").mkdir()
    assert json.loads(runner.invoke(app, ["runs", str(tmp_path / "empty"), "--json"]).stdout) == []
    assert "no runs here" in runner.invoke(app, ["runs", str(tmp_path / "empty")]).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "nowhere"], "nowhere: no such folder"),
        (["report", "nowhere"], "nowhere: no metrics.jsonl here"),
        (["model", "describe", "-c", "none.yaml"], "none.yaml: no such file"),
        (["train", "-c", "none.yaml"], "none.yaml: no such file"),
        (["data", "validate", "none.jsonl"], "none.jsonl: no such file"),
        (["data", "inspect", "none.jsonl"], "none.jsonl: no such file"),
        (["data", "prepare", "nothing", "-o", "x"], "no recipe 'nothing'"),
        (["eval", "-m", "nowhere", "-d", "none.jsonl", "--suite", "vqaa"], "unknown suite vqaa; there are text"),
        (["eval", "-m", "nowhere", "-d", "x", "--require", "vqa"], "expected SUITE.METRIC>=VALUE"),
        (["ask", "hi", "-m", "nowhere"], "nowhere: no config.json here"),
        (["ask", "hi", "-m", "nowhere", "--approve", "--deny"], "--approve and --deny exclude each other"),
        (["ask", "hi", "-m", "nowhere", "--format", "none.json"], "none.json: no such file; give json_object, or"),
        (["ask", "hi", "-m", "nowhere", "--format", "broken.json"], "broken.json: not JSON"),
        (["ask", "hi", "-m", "nowhere", "--format", "list.json"], "list.json: expected a JSON Schema"),
        (["ask", "hi", "-m", "nowhere", "--format", "typo.json"], "typo.json"),
        (["chat", "-m", "nowhere", "--device", "abacus"], "--device abacus"),
        (["tokenizer", "train", "none.txt", "-o", "x"], "none.txt: no such file"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("broken", "{"), ("list", "[]"), ("typo", '{"type": "strng"}')):
        Path(f"{name}.json").write_text(text)
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_answer_may_be_bound_to_a_format(tmp_path: Path, engine: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    (tmp_path / "answer.json").write_text(json.dumps(schema))
    for given, wanted in (
        ([], None),
        (["--format", "json_object"], {"type": "json_object"}),
        (["--format", str(tmp_path / "answer.json")], {"type": "json_schema", "json_schema": {"schema": schema}}),
    ):
        rules = engine(lambda request: Reply('{"a":1}'))
        done = runner.invoke(app, ["ask", "hi", "-m", "x", *given])
        assert done.exit_code == 0 and done.stdout.strip() == '{"a":1}'
        assert [request.response_format for request in rules.asked] == [wanted]
    engine(lambda request: Reply('{"a"', finish_reason="length", format_errors=("it ends in the middle",)))
    done = runner.invoke(app, ["ask", "hi", "-m", "x", "--format", "json_object"])
    assert done.exit_code == 5 and done.stdout.strip() == '{"a"'
    assert "the answer does not fit the format: it ends in the middle" in done.stderr


def test_debug_shows_the_whole_error() -> None:
    done = runner.invoke(app, ["model", "describe", "-c", "none.yaml", "--debug"])
    assert isinstance(done.exception, ValueError)


@pytest.mark.parametrize(
    "arguments", [["trian"], ["ask"], ["train", "--confg", "x"], ["data", "inspect", "f", "--row", "0"]]
)
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


def test_ctrl_c_and_sigterm_have_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_engine", interrupted)
    assert runner.invoke(app, ["ask", "hi", "-m", "x"]).exit_code == 130
    program = (
        "import time; from multimodal_ai import cli\n"
        "def app(): print('up', flush=True); time.sleep(60)\n"
        "cli.app = app; cli.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 143


@pytest.mark.parametrize("command", [["ask", "hi"], ["chat"], ["serve"], ["eval", "--suite", "schemas"]])
def test_the_back_end_is_chosen_on_the_command_line(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def loaded(*_: object, backend: str, weights: str | None) -> None:
        asked.append((backend, weights))
        raise ValueError("enough")

    monkeypatch.setattr("multimodal_ai.inference.Engine.from_pretrained", loaded)
    done = runner.invoke(app, [*command, "-m", "x", "--backend", "openvino", "--weights", "int8"])
    assert "enough" in done.output and asked == [("openvino", "int8")]


def test_a_full_disk_is_no_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "_engine", full)
    done = runner.invoke(app, ["ask", "hi", "-m", "x"])
    assert done.exit_code == 1
    assert "No space left" in done.output


# -- data, models, evaluation ---------------------------------------------------------------------------


def rows(path: Path, *extra: dict[str, Any]) -> Path:
    sample = {
        "messages": [
            {"role": "user", "content": "Log 42 for meter A-17"},
            {"role": "assistant", "tool_calls": [{"name": "log", "arguments": {"meter": "A-17"}}]},
        ],
        "tools": [{"name": "log", "parameters": {"properties": {"meter": {"type": "string"}}}}],
        "task": "call",
        "meta": {"source": "meters"},
    }
    path.write_text("\n".join(json.dumps(row) for row in (sample, *extra)))
    return path


def test_validate_lists_bad_rows_and_fails(tmp_path: Path) -> None:
    assert runner.invoke(app, ["data", "validate", str(rows(tmp_path / "good.jsonl"))]).exit_code == 0
    done = runner.invoke(app, ["data", "validate", str(rows(tmp_path / "bad.jsonl", {"messages": []}))])
    assert done.exit_code == 1
    assert "row 2 of bad.jsonl" in done.stdout


def test_inspect_shows_the_conversation_and_the_trained_tokens(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.jsonl")
    done = runner.invoke(app, ["data", "inspect", str(file)])
    assert done.exit_code == 0, done.output
    assert "assistant, trained" in done.stdout and "source" in done.stdout
    texts = tmp_path / "texts.txt"
    texts.write_text("Log 42 for meter A-17 and the name of the arguments\n" * 20)
    folder = tmp_path / "tokenizer"
    assert (
        runner.invoke(app, ["tokenizer", "train", str(texts), "-o", str(folder), "--vocab-size", "320"]).exit_code == 0
    )
    done = runner.invoke(app, ["data", "inspect", str(file), "--model", str(folder)])
    assert done.exit_code == 0, done.output
    assert '<function_call>{"name":"log","arguments":{"meter":"A-17"}}</function_call>' in done.stdout.replace(
        "│", ""
    ).replace(" \n ", "")
    assert "decision: call" in done.stdout
    missing = runner.invoke(app, ["data", "inspect", str(file), "--row", "9"])
    assert missing.exit_code == 2 and "it has rows 1 to 1" in missing.output


def test_describe_sums_up(tmp_path: Path) -> None:
    config = Path(__file__).parent.parent / "configs" / "models" / "tiny.yaml"
    done = runner.invoke(app, ["model", "describe", "-c", str(config), "--set", "text.layers=2"])
    assert done.exit_code == 0, done.output
    assert "total" in done.stdout and "2 layers" in done.stdout


def test_recipes_are_listed_with_their_licences() -> None:
    done = runner.invoke(app, ["data", "recipes"])
    assert done.exit_code == 0
    assert "digits" in done.stdout and "CC BY" in done.stdout


def test_eval_writes_json_and_checks_what_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from multimodal_ai.evaluation import runner as evaluation

    class Silent:
        def generate(self, requests: list[Request]) -> list[Reply]:
            return [Reply() for _ in requests]

    monkeypatch.setattr(evaluation, "_engine", lambda *_: Silent())
    data, target = rows(tmp_path / "rows.jsonl"), tmp_path / "out.json"
    base = ["eval", "-m", "x", "-d", str(data), "--device", "cpu"]
    done = runner.invoke(app, [*base, "--json", str(target), "--require", "calls.missed_call_rate<=1"])
    assert done.exit_code == 0, done.output
    assert json.loads(target.read_text())["calls"]["call_exact"] == 0.0
    done = runner.invoke(app, [*base, "--require", "calls.call_exact>=0.8"])
    assert done.exit_code == 1 and "calls.call_exact is 0, required >= 0.8" in done.output
    assert runner.invoke(app, [*base, "--require", "calls.nothing>=1"]).exit_code == 2


def test_a_suite_with_its_own_data_needs_no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from multimodal_ai.evaluation import runner as evaluation
    from multimodal_ai.evaluation.common import SuiteResult

    asked: list[Any] = []

    def suite(engine: Any, context: Any, batch_size: int) -> SuiteResult:
        asked.append((context.source, context.limit, batch_size))
        return SuiteResult({"valid": 1.0})

    monkeypatch.setattr(evaluation, "_engine", lambda *_: None)
    monkeypatch.setitem(evaluation.BENCHMARKS, "schemas", suite)
    base = ["eval", "-m", "x", "--suite", "schemas", "--device", "cpu"]
    done = runner.invoke(app, [*base, "--limit", "5", "--from", "there", "--require", "schemas.valid>=1"])
    assert done.exit_code == 0, done.output
    assert asked == [(Path("there"), 5, 32)]
    done = runner.invoke(app, [*base, "-d", "x.jsonl"])
    assert done.exit_code == 2 and "suites schemas bring their own data" in done.output
    done = runner.invoke(app, [*base[:3], "--device", "cpu"])
    assert done.exit_code == 2 and "nothing to evaluate on" in done.output


# -- ask ------------------------------------------------------------------------------------------------


def test_ask_runs_an_approved_call_and_answers(engine: Any, functions: Path) -> None:
    engine(calls_once(meter="A-17", value=42))
    done = runner.invoke(app, ["ask", "Log it", "-m", "x", "-f", str(functions), "--approve"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "Done: stored 42\n"
    assert "log_reading" in done.stderr and "90% sure" in done.stderr
    assert functions.with_name("log.txt").read_text() == "A-17=42\n"


def test_ask_denies_side_effects_unless_told(engine: Any, functions: Path) -> None:
    engine(calls_once(meter="A-17", value=42))
    for flags in ([], ["--deny"]):
        done = runner.invoke(app, ["ask", "Log it", "-m", "x", "-f", str(functions), *flags])
        assert done.exit_code == 4
    assert not functions.with_name("log.txt").exists()


def test_approve_does_not_cover_values_out_of_results(engine: Any, functions: Path) -> None:
    engine(calls_once(meter="A-17", value=42, origin="function_result"))
    done = runner.invoke(app, ["ask", "Log it", "-m", "x", "-f", str(functions), "--approve"])
    assert done.exit_code == 4
    assert "comes from a function's result" in done.output
    assert not functions.with_name("log.txt").exists()


@pytest.mark.parametrize(
    ("typed", "code", "logged"),
    [
        ("y\n", 0, "A-17=42\n"),
        ("maybe\nn\n", 4, None),
        ("", 4, None),
        ('e\n{"meter":"B-2"}\ne\n{"meter":"B-2","value":7}\n', 0, "B-2=7\n"),
    ],
)
def test_ask_asks_the_person(engine: Any, functions: Path, typed: str, code: int, logged: str | None) -> None:
    engine(calls_once(meter="A-17", value=42))
    done = runner.invoke(app, ["ask", "Log it", "-m", "x", "-f", str(functions), "--ask"], input=typed)
    assert done.exit_code == code, done.output
    log = functions.with_name("log.txt")
    assert (log.read_text() if log.exists() else None) == logged


def test_ask_as_json_is_one_object(engine: Any, functions: Path) -> None:
    engine(calls_once("last_reading", meter="A-17"))
    done = runner.invoke(app, ["ask", "Last?", "-m", "x", "-f", str(functions), "--json"])
    found = json.loads(done.stdout)
    assert found["answer"] == "Done: 41"
    assert found["calls"] == [
        {
            "name": "last_reading",
            "arguments": {"meter": "A-17"},
            "confidence": 0.9,
            "sources": {"meter": {"origin": "user", "copied": 1.0, "confidence": 1.0}},
            "status": "finished",
            "result": "41",
        }
    ]
    assert (found["stopped_because"], found["steps"]) == ("answer", 2)


def test_ask_tells_apart_no_call_and_a_failed_function(engine: Any, functions: Path) -> None:
    engine(lambda request: Reply("I don't know."))
    base = ["ask", "Log it", "-m", "x", "-f", str(functions)]
    assert runner.invoke(app, base).exit_code == 0
    assert runner.invoke(app, [*base, "--require-call"]).exit_code == 3
    engine(calls_once("broken"))
    assert runner.invoke(app, base).exit_code == 5


def test_ask_reads_images_from_files_and_stdin(engine: Any, tmp_path: Path) -> None:
    rules = engine(lambda request: Reply("A red square."))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    done = runner.invoke(
        app, ["ask", "What?", "-m", "x", "-i", str(tmp_path / "a.png"), "-i", "-"], input=buffer.getvalue()
    )
    assert done.exit_code == 0, done.output
    assert rules.asked[0].images == [str(tmp_path / "a.png"), buffer.getvalue()]
    assert [part["type"] for part in rules.asked[0].messages[0]["content"]] == ["image", "image", "text"]
    assert runner.invoke(app, ["ask", "What?", "-m", "x", "-i", "-", "-i", "-"], input=b"x").exit_code == 2


def test_ask_shows_the_answer_as_it_is_written_and_calls_once(engine: Any, functions: Path) -> None:
    use = engine(calls_once(meter="A-17", value=7))
    done = runner.invoke(app, ["ask", "log 7", "-m", "x", "-f", str(functions), "--approve", "--today", "2026-03-01"])
    assert done.stdout == "Done: stored 7\n"
    assert done.stderr.count("─ log_reading ─") == 1 and done.stderr.count("log_reading → stored 7") == 1
    assert [str(request.today) for request in use.asked] == ["2026-03-01"] * 2
    seen: list[str] = []
    out = Console(file=io.StringIO())

    def answer(request: Request) -> Reply:
        return Reply("abcd")

    class Watched(StreamingRules):
        def stream(self, request: Request) -> Iterator[Delta]:
            for delta in super().stream(request):
                seen.append(out.file.getvalue())  # type: ignore[attr-defined]
                yield delta

    terminal.ask(Watched(answer), "x", out=out, console=Console(file=io.StringIO()))
    assert seen == ["", "ab", "abcd"] and out.file.getvalue() == "abcd\n"  # type: ignore[attr-defined]


def test_ask_says_what_is_wrong_with_an_image(engine: Any, tmp_path: Path) -> None:
    engine(lambda request: Reply("x"))
    missing = runner.invoke(app, ["ask", "x", "-m", "x", "-i", "nope.png"])
    assert missing.exit_code == 2 and "no such file in" in missing.stderr and "dataset" not in missing.stderr
    empty = runner.invoke(app, ["ask", "x", "-m", "x", "-i", "-"], input=b"")
    assert empty.exit_code == 2 and "stdin" in empty.stderr


def test_ask_names_broken_functions(engine: Any, tmp_path: Path) -> None:
    engine(lambda request: Reply("x"))
    path = tmp_path / "functions.py"
    path.write_text("def f(x):\n    return x\n")
    done = runner.invoke(app, ["ask", "hi", "-m", "x", "-f", str(path)])
    assert done.exit_code == 2 and "parameter x has no type" in done.output


def test_ask_offers_the_tools_of_mcp_servers_and_writes_a_trace(engine: Any, functions: Path, tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    server = f"{sys.executable} {Path(__file__).parent / 'functions' / 'mcp_server.py'}"
    rules = engine(calls_once("last_reading", meter="A-17"))
    trace = tmp_path / "trace.jsonl"
    arguments = ["ask", "Last of A-17?", "-m", "x", "-f", str(functions), "--trace", str(trace), "--mcp", server]
    done = runner.invoke(app, arguments)
    assert done.exit_code != 0 and "'last_reading' is already registered" in done.output, "both have it"
    functions.write_text('def local() -> str:\n    """Do nothing."""\n    return ""\n')
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout == "Done: 41\n"
    assert {spec.name for spec in rules.asked[0].tools} >= {"local", "last_reading", "environment"}
    [event] = [event for event in Trace.load(trace).events if event.kind == "proposed"]
    assert event.detail["origins"] == [["meter", "user"]]


def test_check_says_what_becomes_of_each_keyword(functions: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["functions", "check", str(functions)])
    assert done.exit_code == 0 and "log_reading  side effect, asks first" in done.output
    assert "last_reading  read-only" in done.output and "enforced: " in done.output
    values = {"a": {"type": "array", "uniqueItems": True}, "b": {"pattern": "(?=x)"}}
    tools = tmp_path / "tools.json"
    tools.write_text(
        json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"properties": values}}}])
    )
    done = runner.invoke(app, ["functions", "check", str(tools)])
    assert done.exit_code == 1 and "validated: uniqueItems" in done.output and "refused: pattern" in done.output
    tools.write_text("{}")
    assert runner.invoke(app, ["functions", "check", str(tools)]).exit_code == 2


# -- chat -----------------------------------------------------------------------------------------------


def test_chat_keeps_history_and_runs_functions(engine: Any, functions: Path) -> None:
    rules = engine(calls_once("last_reading", meter="A-17"))
    typed = "/functions\nWhat was it?\n/nonsense\n/reset\nAgain\n/quit\n"
    done = runner.invoke(app, ["chat", "-m", "x", "-f", str(functions), "--system", "Be brief."], input=typed)
    assert done.exit_code == 0, done.output
    assert "log_reading(meter, value) (asks first)" in done.output
    assert "last_reading → 41" in done.output and "Done: 41" in done.output
    assert "unknown command /nonsense" in done.output
    assert [len(request.messages) for request in rules.asked] == [2, 4, 2, 4]  # /reset forgot the first turn


def test_chat_takes_images_and_survives_errors(engine: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no image")

    def answer(request: Request) -> Reply:
        if "explode" in str(request.messages[-1]):
            raise ValueError("the conversation is too long")
        return Reply(f"{len(request.images)} images, {len(request.messages)} messages")

    engine(answer)
    typed = f"/image {tmp_path / 'a.png'}\nlook\n/image {tmp_path / 'bad.png'}\n/image\nexplode\nmore\n"
    done = runner.invoke(app, ["chat", "-m", "x"], input=typed)  # ends with the end of the input
    assert done.exit_code == 0, done.output
    assert "8 × 4 pixels" in done.output
    assert "1 images, 1 messages" in done.output
    assert "/image needs a file" in done.output
    assert "error: the conversation is too long" in done.output
    assert "1 images, 3 messages" in done.output  # the failed turn is not part of the history


def test_ctrl_c_at_the_prompt_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = StreamingRules(lambda request: Reply("fine"))
    lines = iter(["hi", KeyboardInterrupt(), "again", "/quit"])

    def typed(self: Console, *_: Any, **__: Any) -> str:
        line = next(lines)
        if isinstance(line, KeyboardInterrupt):
            raise line
        return str(line)

    monkeypatch.setattr(Console, "input", typed)
    terminal.chat(rules, console=Console(file=io.StringIO()))
    assert [message["content"] for message in rules.asked[-1].messages] == ["hi", "fine", "again"]
    assert rules.asked[-1].today is not None


def test_exit_codes_of_outcomes() -> None:
    done = {"status": "finished"}
    failed = {"status": "failed"}
    assert terminal.Outcome("x", [failed, done]).exit_code() == 0  # corrected
    assert terminal.Outcome("x", [done, failed]).exit_code() == 5
    assert terminal.Outcome("x", [done], stopped_because="deadline").exit_code() == 5
    assert terminal.Outcome("x", [{"status": "denied"}]).exit_code() == 4
    assert terminal.Outcome("x").exit_code(require_call=True) == 3
