"""Rendering: ids, mask, slots, values and copies from one pass."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_ai.data.messages import Message, Sample
from multimodal_ai.data.rendered_call import render_call
from multimodal_ai.data.rendering import ASSISTANT, IMAGE, RESULT, USER, Renderer, RenderingConfig, TooLong

WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city"],
    },
}


def sample(text: str = "weather in San Jose for 12 days", city: str = "San Jose") -> Sample:
    return Sample.from_row(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": text},
                {"role": "assistant", "tool_calls": [{"name": "get_weather", "arguments": {"city": city, "days": 12}}]},
            ],
            "tools": [WEATHER],
        },
        "row 1",
    )


def test_values_are_marked_and_point_at_their_source(renderer: Renderer) -> None:
    made = sample()
    source = renderer.source(made.messages[:-1], [])
    target = renderer.target(made.messages[-1], made.specs, source)
    decode = renderer.tokenizer.decode
    copied: dict[int, list[int]] = {}
    for label, where, parameter in zip(target.labels, target.copy, target.parameter, strict=True):
        if where >= 0:
            assert parameter is not None and source.role[where] == USER
            assert source.ids[where] == label or (label == renderer.tokenizer.space and source.space[where])
            copied.setdefault(parameter[1], []).append(label)
    assert decode(copied[0]) == "San Jose" and decode(copied[1]) == "12"
    city = [label for label, parameter in zip(target.labels, target.parameter, strict=True) if parameter == (0, 0)]
    assert decode(city).startswith("San Jose") and decode(city)[8:].startswith('"')  # the token that ends it too
    names = decode([label for label, p in zip(target.labels, target.parameter, strict=True) if p is None])
    assert "get_weather" in names and "San" not in names


def test_a_value_that_does_not_stand_in_the_source_points_nowhere(renderer: Renderer) -> None:
    made = sample(city="Lagos")
    source = renderer.source(made.messages[:-1], [])
    target = renderer.target(made.messages[-1], made.specs, source)
    first = [where for where, parameter in zip(target.copy, target.parameter, strict=True) if parameter == (0, 0)]
    assert first and set(first) == {-1}


def test_single_spaces_fold_into_the_token_behind(renderer: Renderer) -> None:
    made = sample("a b, c")
    source = renderer.source(made.messages[1:2], [])
    assert renderer.tokenizer.space not in source.ids
    flagged = [renderer.tokenizer.decode([i]) for i, space in zip(source.ids, source.space, strict=True) if space]
    assert flagged == ["b", "c"]


def test_calls_and_results_of_the_history_carry_their_roles(renderer: Renderer) -> None:
    made = Sample.from_row(
        {
            "messages": [
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "tool_calls": [{"name": "get_weather", "arguments": {"city": "Bonn"}}]},
                {"role": "tool", "content": "rain in Bonn"},
                {"role": "assistant", "content": "It rains."},
            ],
            "tools": [WEATHER],
        },
        "row 1",
    )
    source = renderer.source(made.messages[:-1], [])
    special = renderer.tokenizer.special
    assert [source.ids.count(i) for i in (special.call, special.call_end, special.result, special.result_end)] == [
        1
    ] * 4
    said = renderer.tokenizer.decode([i for i, role in zip(source.ids, source.role, strict=True) if role == RESULT])
    assert said.replace(" ", "") == "raininBonn"
    assert source.role[source.ids.index(special.call)] == ASSISTANT


def test_nothing_is_cut(renderer: Renderer) -> None:
    short = Renderer(renderer.tokenizer, RenderingConfig(max_source=8, max_target=8, max_card=8))
    made = sample()
    with pytest.raises(TooLong, match="conversation has"):
        short.source(made.messages[:-1], [])
    with pytest.raises(TooLong, match="answer has"):
        short.target(made.messages[-1], made.specs, renderer.source(made.messages[:-1], []))
    with pytest.raises(TooLong, match="card has"):
        short.card(made.specs[0])


def test_image_slots_follow_the_grid_and_must_match(renderer: Renderer) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}, {"type": "image"}]}]
    made = Sample.from_request(messages, (), [b"x", b"y"])
    source = renderer.source(made.messages, [(4, 6), (2, 2)])
    assert [slot[1:] for slot in source.slots] == [(0, token) for token in range(6)] + [(1, 0)]
    assert all(source.ids[place] == renderer.tokenizer.special.image for place, _, _ in source.slots)
    assert source.role.count(IMAGE) == 7
    for grids in ([(4, 6)], [(4, 6), (2, 2), (2, 2)]):
        with pytest.raises(ValueError, match="image"):
            renderer.source(made.messages, grids)
    one = Renderer(renderer.tokenizer, RenderingConfig(image_slots="one"))
    assert len(one.source(made.messages, [(4, 6), (2, 2)]).slots) == 2


def test_a_card_knows_which_tokens_describe_which_parameter(renderer: Renderer) -> None:
    card = renderer.card(sample().specs[0])
    words = {
        number: renderer.tokenizer.decode([i for i, p in zip(card.ids, card.parameter, strict=True) if p == number])
        for number in range(-1, 3)
    }
    assert words[0].strip().startswith("city") and words[1].strip().startswith("days?") and "C|F" in words[2]
    assert "Nameofthecity" in words[0].replace(" ", "") and "get" in words[-1]


@pytest.mark.parametrize(
    "value, inside",
    [
        ("é x", ["é x"]),
        (4.5, ["4.5"]),
        (["a", "b c"], ["a", "b c"]),
        ({"k": [1, "z"]}, ["1", "z"]),
        ([], []),
        (True, []),
    ],
)
def test_the_places_of_values_are_right_in_bytes(value: object, inside: list[str]) -> None:
    call = render_call("f", {"first": "ü", "p": value})
    data = call.text.encode()
    found = call.values[1]
    assert [data[start:end].decode() for start, end in found.leaves] == inside
    text = data[found.start : found.end].decode()
    assert text == (value if isinstance(value, str) else text) and data[: found.start].decode().rstrip('"').endswith(
        '"p":'
    )


def conversation(turns: int, image: int | None = None) -> list[Message]:
    """A system turn, then user, call, result and answer again and again; the last user turn waits for a reply."""
    messages: list[dict[str, object]] = [{"role": "system", "content": "Be brief."}]
    for number in range(turns):
        asked: list[dict[str, object]] = [{"type": "text", "text": f"weather of city {number} please"}]
        asked += [{"type": "image"}] if number == image else []
        messages.append({"role": "user", "content": asked})
        if number < turns - 1:
            call = {"name": "get_weather", "arguments": {"city": f"city {number}"}}
            messages.append({"role": "assistant", "tool_calls": [call]})
            messages.append({"role": "tool", "name": "get_weather", "content": f"rain {number}"})
            messages.append({"role": "assistant", "content": f"It rains {number}."})
    return [Message.model_validate(message) for message in messages]


def dropping(renderer: Renderer, limit: int) -> Renderer:
    update = {"max_source": limit, "long_history": "drop_oldest"}
    return Renderer(renderer.tokenizer, renderer.config.model_copy(update=update))


def test_the_oldest_turns_go_whole_and_as_few_as_needed(renderer: Renderer) -> None:
    messages = conversation(5)
    left = [renderer.source([messages[0], *messages[1 + 4 * number :]], []) for number in range(5)]
    for limit in range(60, len(left[0].ids) + 1, 7):
        cut = dropping(renderer, limit).source(messages, [])
        fitting = next(number for number, source in enumerate(left) if len(source.ids) <= limit)
        assert cut.ids == left[fitting].ids and cut.role == left[fitting].role and cut.space == left[fitting].space
        assert cut.dropped_turns == 4 * fitting


def test_what_cannot_be_dropped_is_refused(renderer: Renderer) -> None:
    messages = conversation(5)
    with pytest.raises(TooLong):
        Renderer(renderer.tokenizer, renderer.config.model_copy(update={"max_source": 60})).source(messages, [])
    with pytest.raises(TooLong):  # the last turn alone is longer
        dropping(renderer, 10).source(messages, [])
    shown = conversation(5, image=1)
    whole = renderer.source(shown, [(2, 2)])
    with pytest.raises(TooLong):  # an image would have to go
        dropping(renderer, 60).source(shown, [(2, 2)])
    cut = dropping(renderer, len(whole.ids) - 1).source(shown, [(2, 2)])  # what stands before it may
    assert cut.dropped_turns == 4 and [cut.role[position] for position, _, _ in cut.slots] == [IMAGE]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_are_found_again_in_the_source(renderer: Renderer, texts: list[str], shown: bool) -> None:
    parts: list[dict[str, str]] = [{"type": "text", "text": text} for text in texts]
    parts.insert(1, {"type": "image"}) if shown else None
    messages = [Message.model_validate({"role": "user", "content": content}) for content in (parts, "go on")]
    source = renderer.source(messages, [(4, 2)] if shown else [])
    found = {(span.message, span.part): span for span in source.parts}
    for number, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            span = found.pop((number, place))
            if part.type == "image":
                assert span.image == 0 and [slot[0] for slot in source.slots] == list(range(span.start, span.end))
                continue
            pieces = [
                b" " * source.space[at] + renderer.tokenizer.token_bytes(source.ids[at])
                for at in range(span.start, span.end)
            ]
            assert span.image == -1 and b"".join(pieces).decode() == part.text
    assert not found
