"""Draws scenes that are sheets: filled forms, tables of numbers, and charts of bars, lines or slices.

A value of a chart is only asked for where it is printed; which is highest can be seen without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from multimodal_ai.data.recipes.common import tool
from multimodal_ai.data.recipes.function_words import VALUES
from multimodal_ai.data.recipes.page import Page
from multimodal_ai.data.recipes.printed_text import digits, title
from multimodal_ai.data.recipes.printing import Colour, Type, fitting
from multimodal_ai.data.recipes.scenes import COLOURS, Question, Scene, draw_print

_FORM_FIELDS: dict[str, tuple[tuple[str, ...], str, Callable[[Random], str]]] = {
    "name": (
        ("Name", "Full name", "Your name"),
        "Name of the person",
        lambda rng: f"{rng.choice(VALUES['first_names'])} {rng.choice(VALUES['last_names'])}",
    ),
    "phone": (
        ("Phone", "Tel.", "Telephone"),
        "Telephone number",
        lambda rng: f"0{digits(rng, 2)}-{digits(rng, 3)} {digits(rng, 4)}",
    ),
    "city": (("City", "Town", "Place"), "City of the person", lambda rng: str(rng.choice(VALUES["city"]))),
    "date_of_birth": (
        ("Date of birth", "Born on", "Birth date"),
        "Date of birth as written",
        lambda rng: f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/{rng.randint(1940, 2012)}",
    ),
    "membership": (
        ("Member no.", "Membership", "Card no."),
        "Number of the membership",
        lambda rng: f"{rng.choice('ABKMT')}-{digits(rng, 5)}",
    ),
}


def form(rng: Random, split: str) -> Scene:
    """A filled form: printed labels, and values by hand or typed."""
    keys = ["name", *rng.sample(("phone", "city", "date_of_birth", "membership"), rng.randint(1, 3))]
    values = {key: _FORM_FIELDS[key][2](rng) for key in keys}
    labels = {key: rng.choice(_FORM_FIELDS[key][0]) for key in keys}
    heading = rng.choice(("REGISTRATION", "Membership form", "Guest card", "New customer", "SIGN UP", "Visitor"))
    width, pitch = rng.randint(190, 250), rng.randint(22, 28)
    page = Page(width, 40 + pitch * len(keys), COLOURS["white"] if rng.random() < 0.7 else (232, 238, 245))
    label = Type(draw_print(rng, split), rng.uniform(6.5, 8))
    label = fitting(label, list(labels.values()), 78)
    hand = rng.random() < 0.6
    pen = Type(draw_print(rng, split, "hand" if hand else "mono"), rng.uniform(9, 11) if hand else rng.uniform(7.5, 9))
    pen = fitting(pen, list(values.values()), width - 104)
    ink: Colour = (25, 40, 130) if hand and rng.random() < 0.6 else (30, 30, 30)
    page.text(
        heading, 10, 20, fitting(Type(draw_print(rng, split), 9, bold=True), [heading], width - 20), "l", (40, 40, 40)
    )
    style = rng.choice(("line", "box", "dots"))
    for place, key in enumerate(keys):
        y = 40 + pitch * place + 6.0
        page.text(labels[key], 10, y, label, "l", (70, 70, 70))
        if style == "box":
            page.box(90, y - pitch * 0.62, width - 8, y + pitch * 0.26, ink=(130, 130, 130), width=0.7)
        else:
            page.line(92, y + 3, width - 8, y + 3, (140, 140, 140), 0.6, dash=2 if style == "dots" else 0)
        page.text(values[key], 95 + rng.uniform(0, 4), y - (rng.uniform(-0.5, 1) if hand else 0), pen, "l", ink)
    questions: list[Question] = [
        (
            (
                f"What is the {key.replace('_', ' ')}?",
                f"Which {key.replace('_', ' ')} does the form give?",
                f"Read the {key.replace('_', ' ')} on the form.",
            ),
            values[key],
        )
        for key in keys
    ]
    properties = {key: {"type": "string", "description": _FORM_FIELDS[key][1]} for key in _FORM_FIELDS}
    about = "Add a person from a filled form; what the form does not say is left out"
    return Scene(
        "form",
        " ".join(values.values()),
        page,
        f"a form of {values['name']}",
        questions,
        tool("add_person", about, properties, ("name",), True),
        {key: values[key] for key in _FORM_FIELDS if key in values},
        (
            "Add this person",
            "Enter this form",
            "Register who filled this in",
            "Take down the person on the form",
            "File this form",
        ),
    )


def _subjects(rng: Random, count: int) -> tuple[str, list[str]]:
    """What rows or bars stand for: a word for them, and their names."""
    word, pool = rng.choice(
        (
            ("month", [name[:3] for name in VALUES["month"]]),
            ("city", VALUES["city"]),
            ("person", VALUES["first_names"]),
            ("day", [name[:3] for name in VALUES["weekday"]]),
            ("fruit", ["Apple", "Pear", "Plum", "Mango", "Banana", "Grape", "Lemon", "Peach", "Cherry", "Melon"]),
            ("team", ["Red", "Blue", "North", "South", "Lions", "Bears", "Hawks", "Foxes"]),
        )
    )
    if word in ("month", "day"):
        start = rng.randint(0, len(pool) - count)
        return word, list(pool[start : start + count])
    return word, rng.sample(pool, count)


_MEASURES = ("Sales", "Visitors", "Points", "Orders", "Hours", "Rain", "Votes", "Costs", "Books", "Goals")


def table(rng: Random, split: str) -> Scene:
    """A table of three to six rows and one to three columns of numbers."""
    count, columns = rng.randint(3, 6), rng.sample(_MEASURES, rng.randint(1, 3))
    word, names = _subjects(rng, count)
    cells = {column: rng.sample(range(1, rng.choice((20, 100, 1000))), count) for column in columns}
    face = draw_print(rng, split)
    style = Type(face, rng.uniform(7, 9))
    wide, pitch = rng.randint(50, 62), rng.randint(17, 22)
    width, height = 74 + wide * len(columns) + 8, pitch * (count + 1) + 10
    style = fitting(style, [*names, *columns, word], 48)
    page = Page(width, height, COLOURS["white"])
    grid, stripes, dark = rng.random() < 0.6, rng.random() < 0.3, rng.random() < 0.4
    if dark:
        page.box(4, 4, width - 4, 4 + pitch, fill=COLOURS[rng.choice(("blue", "green", "black", "purple"))])
    for place in range(count + 2):
        y = 4.0 + pitch * place
        if stripes and place % 2 and 0 < place <= count:
            page.box(4, y, width - 4, y + pitch, fill=(228, 232, 238))
        if place <= count + 1 and (grid or place == 1):
            page.line(4, y, width - 4, y, (120, 120, 120), 0.6)
    if grid:
        for place in range(len(columns) + 2):
            x = 4.0 if place == 0 else 74.0 + wide * (place - 1)
            page.line(x, 4, x, 4 + pitch * (count + 1), (120, 120, 120), 0.6)
    ink = COLOURS["black"]
    for row, name in enumerate([title(word.upper()), *names]):
        y = 4 + pitch * row + pitch / 2 + style.cap / 2
        tone = COLOURS["white"] if dark and not row else ink
        page.text(name, 9, y, style, "l", tone)
        for place, column in enumerate(columns):
            page.text(
                column if not row else str(cells[column][row - 1]), 74 + wide * (place + 1) - 6, y, style, "r", tone
            )
    column = rng.choice(columns)
    numbers = cells[column]
    pick = rng.randrange(count)
    best, worst = names[numbers.index(max(numbers))], names[numbers.index(min(numbers))]
    low = column.lower()
    return Scene(
        "table",
        f"{names} {cells}",
        page,
        f"a table of {', '.join(columns).lower()} for {', '.join(names)}",
        [
            (
                (
                    f"What does the table give under {low} for {names[pick]}?",
                    f"Which number of {low} has {names[pick]}?",
                    f"Read {low} of {names[pick]}.",
                ),
                str(numbers[pick]),
            ),
            ((f"Which {word} has the highest number under {low}?", f"Who leads in {low}?"), best),
            ((f"Which {word} has the lowest number under {low}?", f"Who is last in {low}?"), worst),
            (("How many rows of numbers are there?", "How many rows has the table below its head?"), str(count)),
        ],
    )


def chart(rng: Random, split: str) -> Scene:
    """A chart of bars, a line or slices; the numbers are printed on it for two of three."""
    count, measure = rng.randint(3, 6), rng.choice(_MEASURES)
    word, names = _subjects(rng, count)
    kind = rng.choice(("bar", "bar", "line", "pie"))
    step = rng.choice((2, 5, 10))
    numbers = [step * number for number in rng.sample(range(1, 13), count)]
    printed = rng.random() < 0.67 or kind == "pie"
    heading = f"{measure} by {word}"
    width, height = rng.randint(180, 250), rng.randint(120, 160)
    page = Page(width, height, COLOURS["white"] if rng.random() < 0.8 else (240, 240, 235))
    small = fitting(Type(draw_print(rng, split), rng.uniform(6.3, 7.5)), names, (width - 30) / count - 3)
    page.text(
        heading,
        width / 2,
        14,
        fitting(Type(draw_print(rng, split), rng.uniform(7.5, 9)), [heading], width - 16),
        "c",
        (30, 30, 30),
    )
    palette = rng.sample([name for name in COLOURS if name not in ("white", "black")], count)
    if kind == "pie":
        _pie(page, names, numbers, palette, small)
    else:
        _axes(page, rng, kind, names, numbers, palette, small, printed)
    best, worst = names[numbers.index(max(numbers))], names[numbers.index(min(numbers))]
    pick = rng.randrange(count)
    questions: list[Question] = [
        ((f"Which {word} has the highest value?", f"Which {word} is at the top?"), best),
        ((f"Which {word} has the lowest value?", f"Which {word} is at the bottom?"), worst),
        (("What is the title of the chart?", "What does the chart show?"), heading),
    ]
    if printed:
        ask = (
            f"What is the value for {names[pick]}?",
            f"How much does {names[pick]} have?",
            f"Read the number of {names[pick]}.",
        )
        questions += [(ask, str(numbers[pick]))] * 2
    if kind != "line":
        questions.append(((f"Which colour stands for {names[pick]}?", f"What colour is {names[pick]}?"), palette[pick]))
    return Scene("chart", f"{names} {numbers}", page, f"a {kind} chart: {heading}", questions)


def _pie(page: Page, names: Sequence[str], numbers: Sequence[int], palette: Sequence[str], style: Type) -> None:
    size = min(page.height - 30.0, page.width * 0.5)
    x, y, start = 10.0, 22.0, -90.0
    legend = fitting(
        style, [f"{name} {number}" for name, number in zip(names, numbers, strict=True)], page.width - size - 40
    )
    for place, (name, number, colour) in enumerate(zip(names, numbers, palette, strict=True)):
        end = start + 360 * number / sum(numbers)
        page.pie(x, y, x + size, y + size, start, end, COLOURS[colour])
        start = end
        at = 32.0 + place * 17
        page.box(x + size + 10, at - 6, x + size + 18, at + 2, fill=COLOURS[colour])
        page.text(f"{name} {number}", x + size + 23, at + 1.5, legend, "l", (30, 30, 30))


def _axes(
    page: Page,
    rng: Random,
    kind: str,
    names: Sequence[str],
    numbers: Sequence[int],
    palette: Sequence[str],
    style: Type,
    printed: bool,
) -> None:
    left, right, top, bottom = 26.0, page.width - 8.0, 30.0, page.height - 18.0
    most = max(numbers)
    for tick in range(0, most + 1, max(1, most // 4)) if not printed or rng.random() < 0.5 else ():
        y = bottom - (bottom - top) * tick / most
        page.line(left, y, right, y, (215, 215, 215), 0.5)
        page.text(str(tick), left - 3, y + style.cap / 2, style, "r", (90, 90, 90))
    page.line(left, top - 4, left, bottom, (60, 60, 60), 0.8)
    page.line(left, bottom, right, bottom, (60, 60, 60), 0.8)
    pitch = (right - left) / len(names)
    points = []
    for place, (name, number, colour) in enumerate(zip(names, numbers, palette, strict=True)):
        x, y = left + pitch * (place + 0.5), bottom - (bottom - top) * number / most
        points.append((x, y))
        if kind == "bar":
            page.box(x - pitch * 0.32, y, x + pitch * 0.32, bottom, fill=COLOURS[colour])
        page.text(name, x, bottom + 4 + style.cap, style, "c", (40, 40, 40))
        if printed:
            page.text(str(number), x, y - 4, style, "c", (30, 30, 30))
    if kind == "line":
        page.curve(points, COLOURS[palette[0]], 1.5)
        for x, y in points:
            page.ellipse(x - 2, y - 2, x + 2, y + 2, fill=COLOURS[palette[0]])
