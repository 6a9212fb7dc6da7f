"""The order of turns: who may speak when, and which result belongs to which call.

A conversation is an optional system part, then user turns, assistant turns and, after calls, one result for each
of them. Checks here know turns only, nothing of images or schemas, and change nothing but a missing name: a
result takes that of the function whose call it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from multimodal_ai.data.rows import DataError

if TYPE_CHECKING:
    from multimodal_ai.data.messages import Message, ToolCall


def check_conversation(messages: Sequence[Message], task: str, trigger: str | None, complete: bool) -> list[Message]:
    """The messages with results named after their calls; raises DataError at the first turn out of order.

    Args:
        task: of the sample; `text` is one assistant message and nothing else.
        trigger: `meta.trigger` of a sample with functions, which must agree with the last turn.
        complete: whether the conversation ends with the assistant (training) or waits for it (a request).
    """
    if not messages:
        raise DataError("messages is empty; give at least one message")
    if task == "text":
        _check_text(messages)
        return list(messages)
    result: list[Message] = []
    pending: list[ToolCall] = []
    previous = ""
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role = message.role
        _check_content(message, place)
        if role == "tool":
            result.append(_named(message, place, pending, previous))
            previous = role
            continue
        if pending:
            raise DataError(
                f"{place}: a {role} message before the result of {_calls(pending)}; add a tool message for each call"
            )
        if role == "system" and previous not in ("", "system"):
            raise DataError(f"{place}: roles out of order: system after {previous}; system messages come first")
        if role == "assistant" and previous in ("", "system"):
            raise DataError(
                f"{place}: roles out of order: an assistant message before any user message; "
                "add the user's, or use task text for plain text"
            )
        if role == "assistant" and previous == "assistant":
            raise DataError(f"{place}: roles out of order: two assistant messages in a row; join them into one")
        pending = list(message.tool_calls)
        _check_ids(pending, place)
        result.append(message)
        previous = role
    last = messages[-1]
    if complete:
        _check_target(last, len(messages) - 1, task, trigger)
    elif last.role not in ("user", "tool"):
        raise DataError(
            f"messages[{len(messages) - 1}]: the last message must be the user's or a tool's to be answered"
        )
    elif pending:
        raise DataError(f"no result of {_calls(pending)}; add a tool message for each call")
    return result


def _check_text(messages: Sequence[Message]) -> None:
    message = messages[0]
    if len(messages) > 1 or message.role != "assistant" or message.tool_calls:
        raise DataError("task text is one assistant message that holds the text; for anything else use task chat")
    _check_content(message, "messages[0]")


def _check_content(message: Message, place: str) -> None:
    images = any(part.type == "image" for part in message.parts)
    if message.tool_calls and message.role != "assistant":
        raise DataError(f"{place}: tool_calls in a {message.role} message; only the assistant calls functions")
    if images and message.role == "assistant":
        raise DataError(f"{place}: an image in an assistant message; it holds text and calls only, drop the part")
    if message.role != "tool" and not (message.text or images or message.tool_calls):
        raise DataError(f"{place}: the {message.role} message is empty; give it content or drop it")
    if message.role != "tool" and message.tool_call_id is not None:
        raise DataError(f"{place}: tool_call_id in a {message.role} message; it belongs to role tool")


def _named(message: Message, place: str, pending: list[ToolCall], previous: str) -> Message:
    """A result with the name of its function; takes its call off `pending`."""
    if not pending:
        before = "another result than calls were made" if previous == "tool" else f"a {previous or 'missing'} message"
        raise DataError(f"{place}: a tool message without a preceding call (after {before}); drop it or add the call")
    wanted = message.tool_call_id
    known = [call.id for call in pending]
    if wanted is not None and any(identity is not None for identity in known):
        if wanted not in known:
            waiting = ", ".join(str(identity) for identity in known)
            raise DataError(f"{place}: tool_call_id {wanted} is none of the calls that wait for a result ({waiting})")
        call = pending.pop(known.index(wanted))
    else:
        call = pending.pop(0)
    if message.name is None:
        return message.model_copy(update={"name": call.name})
    if message.name != call.name:
        raise DataError(
            f"{place}: result of {message.name}, but the call was of {call.name}; correct name or tool_call_id"
        )
    return message


def _check_ids(calls: Sequence[ToolCall], place: str) -> None:
    ids = [call.id for call in calls if call.id is not None]
    if len(set(ids)) != len(ids):
        double = next(identity for identity in ids if ids.count(identity) > 1)
        raise DataError(f"{place}: two calls have the id {double}; give each its own")


def _check_target(last: Message, index: int, task: str, trigger: str | None) -> None:
    place = f"messages[{index}]"
    if last.role != "assistant":
        raise DataError(
            f"{place}: the last message is the {last.role}'s; it must be the assistant's: it is what is trained"
        )
    if not last.train:
        raise DataError(f"{place}: the last message says train: false, so nothing is left to train; drop the row")
    if task in ("caption", "vqa") and last.tool_calls:
        raise DataError(f"{place}: task {task} ends with text, but this message calls a function; use task call")
    if trigger is not None and (trigger == "call") != bool(last.tool_calls):
        found = f"calls {_calls(last.tool_calls)}" if last.tool_calls else "calls no function"
        raise DataError(f"{place}: meta.trigger is {trigger}, but this message {found}; correct one of them")


def _calls(calls: Sequence[ToolCall]) -> str:
    return ", ".join(f"{call.name} ({call.id})" if call.id else call.name for call in calls)
