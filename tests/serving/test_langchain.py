"""LangChain's ChatOpenAI against the server, as anyone would use it: nothing in it knows this server."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from .conftest import LOG_READING, Running, data_url

pytest.importorskip("langchain_openai", reason="needs langchain-openai: pip install -r requirements-evaluation.txt")
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI


class Reading(BaseModel):
    """A meter's reading."""

    value: int = Field(ge=0, le=9999)
    sure: bool


@pytest.fixture(scope="module")
def model(running: Running) -> Any:
    return ChatOpenAI(model="small", base_url=f"{running.url}/v1", api_key="none", max_tokens=120, max_retries=0)


def test_invoke_and_stream(model: Any, running: Running) -> None:
    said = model.invoke("Which city?")
    assert (
        isinstance(said, AIMessage)
        and said.content == running.chat("Which city?", max_tokens=120).choices[0].message.content
    )
    assert said.usage_metadata["output_tokens"] > 0 and said.response_metadata["finish_reason"] in ("stop", "length")
    chunks = list(model.stream("Which city?"))
    assert len(chunks) > 3 and "".join(chunk.content for chunk in chunks) == said.content


def test_a_call_from_an_image_and_back(model: Any) -> None:
    bound = model.bind_tools([LOG_READING], tool_choice="required")
    image = {"type": "image_url", "image_url": {"url": data_url()}}
    asked = HumanMessage([image, {"type": "text", "text": "Log this reading"}])
    called = bound.invoke([asked])
    assert called.tool_calls and not called.invalid_tool_calls
    assert all(call["name"] == "log_reading" and set(call["args"]) == {"meter", "value"} for call in called.tool_calls)
    streamed = None
    for chunk in bound.stream([asked]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert [(c["name"], c["args"]) for c in streamed.tool_calls] == [(c["name"], c["args"]) for c in called.tool_calls]
    results = [ToolMessage("stored", tool_call_id=call["id"]) for call in called.tool_calls]
    assert isinstance(
        model.bind_tools([LOG_READING], tool_choice="none").invoke([asked, called, *results]).content, str
    )


def test_python_functions_are_tools(model: Any) -> None:
    def get_time(zone: str) -> str:
        """The time of day in a zone."""
        return zone

    named = model.bind_tools([get_time], tool_choice="get_time").invoke("What time is it?")
    assert [call["name"] for call in named.tool_calls] == ["get_time"] and isinstance(
        named.tool_calls[0]["args"]["zone"], str
    )


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: Any, method: str) -> None:
    made = model.with_structured_output(Reading, method=method).invoke("The meter shows 12")
    assert isinstance(made, Reading)
