"""Changes of the functions a training sample lists, so that the head learns to read cards instead of names.

Names that say nothing, other cards of the same source beside the right one, the right one taken away, any
order. A label stays true or is changed with the sample: where the called function is gone, the answer is that
there is none. What is drawn depends on the generator and the source's rows alone, never on earlier samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from pydantic import Field

from multimodal_ai.data.examples import asked_by
from multimodal_ai.data.messages import Message, Sample
from multimodal_ai.data.recipes.common import NO_FUNCTION
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.utils.config import ConfigModel

COMPARED = 256  # cards that are compared with a request to find those most like it
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class FunctionsConfig(ConfigModel):
    """Shares and counts of changes; everything is off by default."""

    masked: float = Field(default=0.0, ge=0, le=1, description="share of samples whose functions get meaningless names")
    removed: float = Field(default=0.0, ge=0, le=1, description="share of calls whose functions are taken away: refuse")
    distractors: int = Field(default=0, ge=0, description="add up to so many other cards of the source")
    hard: int = Field(default=0, ge=0, description="add up to so many of those most like the request (BM25)")
    shuffled: bool = Field(default=False, description="list the functions in random order")
    hidden: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of samples whose function is to be found among many samples' cards",
    )


class FunctionAugmentation:
    """Changes samples as configured. `samples` are the source's, for further cards."""

    def __init__(self, config: FunctionsConfig, samples: Iterable[Sample] = ()) -> None:
        self.config = config
        self.catalogue: list[FunctionSpec] = []
        if config.distractors or config.hard:
            self.catalogue = list(dict.fromkeys(spec for sample in samples for spec in sample.specs))

    def __call__(self, sample: Sample, rng: random.Random) -> tuple[Sample, bool]:
        """The changed sample, and whether its functions are to be hidden (`data.examples.hide_functions`)."""
        if not sample.specs:
            return sample, False
        config, last = self.config, sample.messages[-1]
        # one draw each, needed or not: switching one change on or off leaves the others as they were
        masked, removed, hidden, extra, hard = (rng.random() for _ in range(5))
        specs = [*sample.specs, *self._others(sample, int(extra * (config.distractors + 1)), hard, rng)]
        is_hidden = bool(last.tool_calls or sample.meta.get("asks_for")) and hidden < config.hidden
        if last.tool_calls and not is_hidden and removed < config.removed:
            sample, specs = _without_called(sample, specs, rng)
        if config.shuffled:
            rng.shuffle(specs)
        sample = sample.model_copy(update={"specs": tuple(specs)})
        if masked < config.masked and not is_hidden:  # among many samples' cards, one function must have one card
            sample = _masked(sample, rng)
        return sample, is_hidden

    def _others(self, sample: Sample, count: int, hard: float, rng: random.Random) -> list[FunctionSpec]:
        """`count` cards at random and up to `config.hard` of those most like the request, none of a name listed."""
        names = {spec.name for spec in sample.specs}
        others: list[FunctionSpec] = []
        pool = rng.sample(self.catalogue, min(COMPARED, len(self.catalogue)))
        ranked = pool
        near = int(hard * (self.config.hard + 1))
        if near:
            scores = lexical_scores(asked_by(sample.messages), pool)
            ranked = [pool[place] for place in sorted(range(len(pool)), key=lambda place: -scores[place])]
        for candidates, wanted in ((ranked, near), (pool, count)):
            free = (spec for spec in candidates if spec.name not in names)
            for spec, _ in zip(free, range(wanted), strict=False):
                names.add(spec.name)
                others.append(spec)
        return others


def _without_called(sample: Sample, specs: list[FunctionSpec], rng: random.Random) -> tuple[Sample, list[FunctionSpec]]:
    """Without the functions of the last turn, which then says that there is none; unchanged where no other
    function is left, or where one of them was called before.
    """
    called = {call.name for call in sample.messages[-1].tool_calls}
    before = {call.name for message in sample.messages[:-1] for call in message.tool_calls}
    left = [spec for spec in specs if spec.name not in called]
    if not left or called & before:
        return sample, specs
    refusal = Message(role="assistant", content=rng.choice(NO_FUNCTION))
    changed = {"messages": (*sample.messages[:-1], refusal), "meta": {**sample.meta, "trigger": "cannot"}}
    return sample.model_copy(update=changed), left


def _masked(sample: Sample, rng: random.Random) -> Sample:
    """Every listed function under a name that says nothing, everywhere in the conversation."""
    names: dict[str, str] = {}
    for spec in sample.specs:
        name = ""
        while not name or name in names.values():
            name = "fn_" + "".join(rng.choice(_LETTERS) for _ in range(3))
        names[spec.name] = name
    specs = tuple(
        FunctionSpec(names[spec.name], spec.description, spec.parameters, spec.side_effect) for spec in sample.specs
    )
    messages = []
    for message in sample.messages:
        calls = tuple(call.model_copy(update={"name": names.get(call.name, call.name)}) for call in message.tool_calls)
        called = names.get(message.name, message.name) if message.name is not None else None
        messages.append(message.model_copy(update={"tool_calls": calls, "name": called}))
    meta = dict(sample.meta)
    if meta.get("asks_for"):
        function, parameter = meta["asks_for"]
        meta["asks_for"] = [names.get(function, function), parameter]
    return sample.model_copy(update={"specs": specs, "messages": tuple(messages), "meta": meta})
