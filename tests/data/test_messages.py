"""The message schema: every accepted spelling gives the same sample, every mistake its own clear error."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.messages import DataError, ImagePart, Message, Sample, TextPart

WHERE = "row 1,204 of train.jsonl"
LOG = {
    "type": "function",
    "function": {
        "name": "log_reading",
        "description": "Log a meter's reading.",
        "parameters": {
            "type": "object",
            "properties": {
                "meter": {"type": "string"},
                "value": {"type": "number"},
                "unit": {"type": "string", "enum": ["kWh", "m3"]},
            },
            "required": ["meter", "value"],
        },
    },
}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def user(content: Any = "Hello") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "Hi.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(name: str = "log_reading", arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": {"meter": "020", "value": 3} if arguments is None else arguments, **more}


def calling(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls or [call()]), **more}


def tool(content: str = "{}", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


def row(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), "tools": [LOG], **more}


# --- accepted ------------------------------------------------------------------------------------------------


def test_a_conversation() -> None:
    sample = Sample.from_row(
        row({"role": "system", "content": "Be short."}, user(), calling(call(id="a")), tool("ok"), assistant("Done."))
    )
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.messages[2].tool_calls[0].arguments == {"meter": "020", "value": 3}
    assert sample.messages[3].name == "log_reading", "a result is named after its call"
    assert sample.specs[0].name == "log_reading"
    assert sample.task == "chat"
    assert sample.tools == [LOG]
    assert all(message.train for message in sample.messages)


def test_every_spelling_of_a_call_is_the_same() -> None:
    arguments = {"value": 3.5, "meter": "020"}
    spellings = [
        {"id": "a", "name": "log_reading", "arguments": arguments},
        {"id": "a", "name": "log_reading", "arguments": json.dumps(arguments)},
        {"id": "a", "type": "function", "function": {"name": "log_reading", "arguments": arguments}},
        {
            "id": "a",
            "type": "function",
            "index": 0,
            "function": {"name": "log_reading", "arguments": json.dumps(arguments)},
        },
        {"id": "a", "name": "log_reading", "arguments": arguments, "function": None, "type": None},
    ]
    samples = [Sample.from_row(row(user(), calling(spelling))) for spelling in spellings]
    samples += [Sample.from_row({"messages": json.dumps([user(), calling(spellings[3])]), "tools": json.dumps([LOG])})]
    samples += [Sample.from_row(row(user(), calling(spellings[0]), tools=[LOG["function"]]))]
    assert all(sample == samples[0] for sample in samples)
    assert list(samples[0].messages[1].tool_calls[0].arguments) == ["meter", "value"], "in the schema's order"


def test_every_spelling_of_an_image_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(png())
    text = base64.b64encode(png()).decode()
    placed = [{"type": "image"}, {"type": "text", "text": "What?"}]
    rows = [
        row(user(placed), assistant(), images=[png()]),
        row(user(placed), assistant(), images=[str(file)]),
        row(user(placed), assistant(), images=[file]),
        row(user(placed), assistant(), images=[{"bytes": png(), "path": None}]),
        row(user(placed), assistant(), images=[{"bytes": None, "path": str(file)}]),
        row(user(placed), assistant(), images=[{"bytes": png(), "path": "its/old/name.png"}]),
        row(user(placed), assistant(), image=png()),
        row(user(placed), assistant(), images=[Image.open(file)]),
        row(user(placed), assistant(), images=[np.asarray(Image.open(file))]),
    ]
    for own in (
        {"type": "image", "image": png()},
        {"type": "image", "image": str(file)},
        {"type": "image", "image": text},
        {"type": "image", "image": {"path": str(file), "bytes": None}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}", "detail": "low"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{text}"},
        {"type": "image_url", "image_url": {"url": f"file://{file}"}, "text": None},
    ):
        rows.append(row(user([own, {"type": "text", "text": "What?"}]), assistant()))
    samples = [Sample.from_row(one) for one in rows]
    for sample in samples:
        assert sample.messages == samples[0].messages
        assert sample.messages[0].parts == (ImagePart(), TextPart(text="What?"))
        assert ImageProcessor()(sample.images[0]).key == ImageProcessor()(png()).key


def test_images_stand_in_the_order_of_their_parts() -> None:
    own = {"type": "image", "image": b"own"}
    sample = Sample.from_row(row(user([{"type": "image"}, own, {"type": "image"}]), assistant(), images=[b"1", b"2"]))
    assert sample.images == (b"1", b"own", b"2")


def test_plain_text_rows() -> None:
    for plain in ({"text": "Once."}, {"messages": [assistant("Once.")], "task": "text"}):
        sample = Sample.from_row(plain)
        assert (sample.task, sample.messages[0].text) == ("text", "Once.")


def test_keys_that_hold_nothing_are_no_mistake() -> None:
    """Typed tables and client libraries write every key they know."""
    message = {"role": "assistant", "content": "Hi.", "tool_calls": None, "refusal": None, "annotations": []}
    part = {"type": "text", "text": "Hello", "image": None, "image_url": None}
    assert Sample.from_row(row(user([part]), message)).messages[1].tool_calls == ()


def test_parts_text_and_training_marks() -> None:
    sample = Sample.from_row(
        row(user(["a", {"type": "text", "text": "b"}]), assistant("c", train=False), user(), assistant())
    )
    assert sample.messages[0].text == "ab"
    assert Message(role="assistant").parts == ()
    assert [message.train for message in sample.messages] == [True, False, True, True]
    assert Message.model_validate({"role": "developer", "content": "x"}).role == "system"


def test_a_turn_that_is_only_context_may_call_what_is_no_longer_offered() -> None:
    past = calling(call("old_function", {"x": 1}), train=False)
    sample = Sample.from_row(row(user(), past, tool(), assistant()))
    assert sample.messages[1].tool_calls[0].name == "old_function"
    assert Sample.from_request([user(), calling(call("old_function", {})), tool()]).messages[2].name == "old_function"


def test_parallel_calls_and_their_results_in_any_order() -> None:
    two = calling(call(id="a"), call(id="b"))
    sample = Sample.from_row(row(user(), two, tool("B", tool_call_id="b"), tool("A", tool_call_id="a"), assistant()))
    assert [message.content for message in sample.messages[2:4]] == ["B", "A"]


def test_requests_wait_for_the_assistant() -> None:
    sample = Sample.from_request([user([{"type": "image"}, "What?"])], [LOG], [Image.new("RGB", (8, 8))])
    assert len(sample.images) == 1
    again = Sample.from_request(sample.messages, sample.specs, sample.images)
    assert again == sample
    dumped = [message.model_dump(exclude_none=True) for message in sample.messages]
    assert Sample.from_request(dumped, sample.specs, sample.images) == sample
    with pytest.raises(DataError, match="must be the user's or a tool's"):
        Sample.from_request([user(), assistant()])
    with pytest.raises(DataError, match="no result of f"):
        Sample.from_request([user(), calling(call("f", {}), call("f", {})), tool()])


def test_requests_of_strangers_cannot_name_files(tmp_path: Path) -> None:
    for part in (
        {"type": "image", "image": "/etc/hostname"},
        {"type": "image_url", "image_url": "file:///etc/hostname"},
    ):
        with pytest.raises(DataError, match="given as a path"):
            Sample.from_request([user([part])], allow_files=False)
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert Sample.from_request([user([{"type": "image_url", "image_url": url}])], allow_files=False).images == (png(),)


def test_to_row_and_back(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(png())
    sample = Sample.from_row(
        row(
            user([{"type": "image"}, "Log «020» 東京"]),
            calling(call(arguments={"meter": "020", "value": 3}, id="x"), train=False),
            tool("stored"),
            assistant("Done."),
            images=[str(file)],
            task="call",
            meta={"trigger": "answer", "source": "test", "n": 1},
        )
    )
    written = sample.to_row()
    assert {name: type(value) for name, value in written.items()} == {
        "messages": str,
        "tools": str,
        "images": list,
        "task": str,
        "meta": str,
    }
    assert written["images"] == [png()]
    assert "東京" in written["messages"]
    again = Sample.from_row(written)
    assert again.messages == sample.messages
    assert (again.specs, again.task, again.meta) == (sample.specs, sample.task, sample.meta)
    assert again.to_row() == written
    pixels = Sample.from_row(row(user([{"type": "image"}]), assistant(), images=[Image.new("RGB", (8, 8), "red")]))
    assert ImageProcessor()(pixels.to_row()["images"][0]).key == ImageProcessor()(png()).key
    file.unlink()
    with pytest.raises(DataError, match=r"red\.png: cannot be read"):
        sample.to_row()


# --- refused: what was wrong, where, what was expected ---------------------------------------------------------

TWO_IMAGES = [{"type": "image"}, {"type": "image"}]
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, r"no `messages` in the row"),
    ({"mesages": []}, r"no `messages` in the row; did you mean .* `mesages`\?"),
    ({"messages": []}, r"messages is empty; give at least one"),
    ({"messages": "[{"}, r"messages: not JSON: .*; correct the JSON text"),
    ({"messages": {"role": "user"}}, r"messages: expected a list, got"),
    ({"error": "not JSON: x; correct the line"}, r"not JSON: x; correct the line"),
    (row("x"), r'messages\[0\]: expected an object, got "x"'),
    (row({"content": "x"}), r"messages\[0\]\.role: is missing; add it"),
    (
        row({"role": "asistant", "content": "x"}),
        r'\.role: "asistant": expected one of system, .*; did you mean assistant\?',
    ),
    (
        row({"role": "user", "contnet": "x"}),
        r"\.contnet: unknown key; expected one of role, .*; did you mean content\?",
    ),
    (row(user(3)), r"\.content: expected text or a list of parts, got 3"),
    (row(user([3])), r"\.content\[0\]: expected an object with type text or image, got 3"),
    (row(user([{"type": "video"}])), r'\.content\[0\]: part of type "video"; expected text, image or image_url'),
    (row(user([{"type": "text"}])), r"\.content\[0\]\.text: expected text, got null"),
    (row(user([{"type": "text", "txt": "a"}])), r"\.content\[0\]\.txt: unknown key"),
    (
        row(user([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])),
        r"only data: and file: URLs are read",
    ),
    (
        row(user([{"type": "image", "image": "data:image/png;base64,@@@"}]), assistant()),
        r"content\[0\]\.image: not Base64",
    ),
    (row(user([{"type": "image", "image": "data:image/png,abc"}]), assistant()), r"expected data:image/…;base64"),
    (row(user(TWO_IMAGES), assistant(), images=[b"1"]), r"2 image parts but 1 image; add the image or drop the part"),
    (row(user(), assistant(), images=[b"1"]), r"0 image parts but 1 image; add the part or drop the image"),
    (row(user([{"type": "image"}]), assistant(), images=[None]), r"images\[0\]: expected a path, bytes or an object"),
    (row(user([{"type": "image"}]), assistant(), images="a.png"), r"images: expected a list"),
    (row(user(), assistant(), task="chatt"), r'task "chatt": expected one of text, .*; did you mean chat\?'),
    (row(user(), assistant(), meta=[1]), r"meta: expected an object, got \[1\]"),
    (row(user(), assistant(), meta={"trigger": "maybe"}), r'meta\.trigger "maybe": expected one of answer, call'),
    (row(user(), assistant(), meta={"trigger": "call"}), r"meta\.trigger is call, but this message calls no function"),
    (
        row(user(), calling(), meta={"trigger": "answer"}),
        r"meta\.trigger is answer, but this message calls log_reading",
    ),
    # the order of turns
    (row(assistant()), r"messages\[0\]: roles out of order: an assistant message before any user"),
    (row(user(), {"role": "system", "content": "x"}), r"messages\[1\]: roles out of order: system after user"),
    (row(user(), assistant(), assistant()), r"messages\[2\]: roles out of order: two assistant messages"),
    (row(user(), tool(), assistant()), r"messages\[1\]: a tool message without a preceding call"),
    (row(user(), calling(), tool(), tool(), assistant()), r"messages\[3\]: a tool message without a preceding call"),
    (
        row(user(), calling(call(id="a")), user(), assistant()),
        r"messages\[2\]: a user message before the result of log_reading \(a\)",
    ),
    (
        row(user(), calling(call(id="a")), tool(tool_call_id="b"), assistant()),
        r"tool_call_id b is none of the calls .* \(a\)",
    ),
    (row(user(), calling(), tool(name="other"), assistant()), r"result of other, but the call was of log_reading"),
    (row(user(), calling(call(id="a"), call(id="a"))), r"two calls have the id a"),
    (row(user()), r"messages\[0\]: the last message is the user's; it must be the assistant's"),
    (row(user(), assistant(train=False)), r"the last message says train: false"),
    (row(user(""), assistant()), r"messages\[0\]: the user message is empty"),
    (row(user(), assistant("")), r"messages\[1\]: the assistant message is empty"),
    (row({**user(), "tool_calls": [call()]}, assistant()), r"tool_calls in a user message"),
    (row({**user(), "tool_call_id": "a"}, assistant()), r"tool_call_id in a user message"),
    (row(user(), assistant([{"type": "image"}])), r"an image in an assistant message"),
    (row(user(), assistant(), task="text"), r"task text is one assistant message"),
    (row(user(), assistant(), task="caption"), r"task caption needs an image"),
    (row(user(), calling(), task="vqa"), r"task vqa ends with text"),
    # functions and calls
    ({"messages": [user(), assistant()], "tools": "[{"}, r"tools: not JSON"),
    (row(user(), assistant(), tools={"a": 1}), r"tools: expected a list"),
    (row(user(), assistant(), tools=[{"description": "x"}]), r"tools\[0\]: .*expected a name"),
    (row(user(), assistant(), tools=[LOG, LOG]), r"tools: two functions are called log_reading"),
    (
        row(user(), calling(call("log_readin"))),
        r"calls log_readin, which tools does not list \(it lists log_reading\); did you mean log_reading\?; add",
    ),
    (row(user(), calling(), tools=[]), r"which tools does not list \(it lists nothing\)"),
    (row(user(), calling({"arguments": {}})), r"tool_calls\[0\]\.name: is missing"),
    (row(user(), calling(call(arguments="{a}"))), r"tool_calls\[0\]\.arguments: not JSON"),
    (row(user(), calling(call(arguments='{"meter":"1","meter":"2"}'))), r"arguments: key 'meter' is given twice"),
    (row(user(), calling(call(arguments='{"value":NaN}'))), r"arguments: NaN is not a JSON value"),
    (row(user(), calling(call(arguments="[1]"))), r"arguments: expected a JSON object, got \[1\]"),
    (row(user(), calling(call(arguments=3))), r"arguments: expected an object or its JSON text, got 3"),
    (
        row(user(), calling(call(arguments={"meter": 20, "value": 3}))),
        r"of log_reading: /meter: expected string, got 20; correct the call",
    ),
    (row(user(), calling(call(arguments={"meter": "20"}))), r"/value: expected a value \(required\), got nothing"),
    (row(user(), calling(call(arguments={"meter": "1", "value": 1, "unit": "l"}))), r"/unit: expected one of"),
    (row(user(), calling(call(arguments={"meter": "1", "value": 1, "colour": "l"}))), r"/colour: .* unknown parameter"),
    (row(user(), {"role": "assistant", "tool_calls": "x"}), r"\.tool_calls: expected a list, got \"x\""),
]


@pytest.mark.parametrize(("bad", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_every_mistake_has_its_error(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Sample.from_row(bad, WHERE)
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "image", "tool_calls", "name", "arguments", "function", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(messages=JSON, tools=JSON, images=JSON, meta=JSON)
def test_no_row_raises_anything_but_a_data_error(messages: Any, tools: Any, images: Any, meta: Any) -> None:
    for shaped in (messages, [messages], [{"role": "user", "content": messages}], [user(), messages]):
        try:
            Sample.from_row({"messages": shaped, "tools": tools, "images": images, "meta": meta}, WHERE)
        except DataError as error:
            assert str(error).startswith(WHERE)
