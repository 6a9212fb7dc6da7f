"""Lays out a made-up receipt: what it says in which order and how, and the page that results.

Values that a receipt is asked for (company, date, address, total) are printed as they stand in `expense`, apart
from capitals; every other amount (sums before tax, tax, cash, change) is a distractor that adds up with the total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from multimodal_ai.data.recipes.fonts import Face, draw_face
from multimodal_ai.data.recipes.page import Anchor, Page
from multimodal_ai.data.recipes.printed_text import (
    WORDS,
    address,
    cased,
    clock,
    company_number,
    date,
    digits,
    item,
    labelled,
    number,
    phone,
    tax_number,
)
from multimodal_ai.data.recipes.printing import Type, text_width

WIDTH = 320  # pixels

Cell = tuple[str, float, Anchor]


@dataclass(frozen=True)
class Line:
    """One printed line: cells (text, place across the sheet in 0..1, anchor), or a rule, a gap, a bar code."""

    cells: tuple[Cell, ...] = ()
    style: str = "text"  # text, strong, wide, head, rule, gap, bars

    @property
    def text(self) -> str:
        """The cells from left to right, joined by spaces."""
        return " ".join(text for text, _, _ in self.cells)


@dataclass
class Receipt:
    """A receipt's values and its lines; `head` ends before the goods, `foot` begins behind them."""

    expense: dict[str, str]
    head: list[Line] = field(default_factory=list)
    body: list[Line] = field(default_factory=list)
    foot: list[Line] = field(default_factory=list)


def _middle(text: str, style: str = "text") -> Line:
    return Line(((text, 0.5, "c"),), style)


def _pair(left: str, right: str, style: str = "text", at: float = 0.0) -> Line:
    return Line(((left, at, "l"), (right, 1.0, "r")), style)


RULE, GAP = Line(style="rule"), Line(style="gap")


class Writer:
    """Draws the lines of a receipt of one company; a stream decides everything."""

    def __init__(self, rng: Random, company: str) -> None:
        self.rng = rng
        self.company = company
        self.capitals = 1.0 if rng.random() < 0.45 else 0.0
        self.money = rng.choice(("", "", "", "", "RM", "RM ", "$"))
        self.colon = rng.choice((": ", ": ", " : ", " :", ":"))

    def say(self, text: str) -> str:
        """A text in the case of this receipt."""
        return cased(text, self.rng, self.capitals)

    def receipt(self) -> Receipt:
        """A receipt with all its lines and the values that it prints."""
        rng = self.rng
        lines = address(rng)
        while len(lines) == 1:
            lines = address(rng)
        day = date(rng)
        expense = {"company": self.company, "date": day.upper(), "address": " ".join(lines), "total": ""}
        made = Receipt(expense)
        late = rng.random() < 0.15  # the date stands at the foot
        self._head(made, lines)
        self._facts(made, None if late else day)
        self._goods(made)
        self._sums(made)
        self._farewell(made, day if late else None)
        return made

    def _head(self, made: Receipt, lines: Sequence[str]) -> None:
        rng, head = self.rng, made.head
        align: Anchor = "l" if rng.random() < 0.1 else "c"

        def put(text: str, style: str = "text") -> None:
            head.append(Line(((text, 0.0 if align == "l" else 0.5, align),), style))

        if rng.random() < 0.12:
            put(self.say(rng.choice(WORDS["phrases"][:4] + WORDS["headings"][:4])))
        name_style = rng.choice(("text", "strong", "strong", "head", "head", "wide"))
        name = self.say(self.company)
        put(name, name_style)
        if rng.random() < 0.5:
            known = company_number(rng)
            label = rng.choice(WORDS["company_labels"])
            put(known if rng.random() < 0.4 else f"({self.say(label)}{self.colon}{known.strip('()')})")
        for line in lines:
            put(self.say(line))
        if rng.random() < 0.6:
            put(f"{self.say(rng.choice(('TEL', 'TEL NO', 'TEL & FAX', 'PHONE')))}{self.colon}{phone(rng)}")
            if rng.random() < 0.3:
                put(f"{self.say('FAX')}{self.colon}{phone(rng)}")
        if rng.random() < 0.65:
            put(f"{self.say(rng.choice(WORDS['tax_labels']))}{self.colon}{tax_number(rng)}")
        if rng.random() < 0.7:
            head.append(GAP)
            put(self.say(rng.choice(WORDS["headings"][:6])), rng.choice(("text", "strong", "wide")))
        if rng.random() < 0.3:
            head.append(RULE)

    def _facts(self, made: Receipt, day: str | None) -> None:
        """Number, date, cashier: in two columns, one label a line, or joined."""
        rng, head = self.rng, made.head
        facts: list[tuple[str, str]] = []
        if day is not None:
            with_time = rng.random() < 0.5
            facts.append((rng.choice(WORDS["date_labels"]), f"{day} {clock(rng)}" if with_time else day))
            if not with_time and rng.random() < 0.4:
                facts.append(("TIME", clock(rng)))
        facts.append((rng.choice(WORDS["number_labels"][:15]), number(rng)))
        if rng.random() < 0.6:
            facts.append((rng.choice(WORDS["person_labels"]), rng.choice(WORDS["persons"])))
        if rng.random() < 0.3:
            facts.append((rng.choice(WORDS["number_labels"][10:]), number(rng)))
        rng.shuffle(facts)
        style = rng.random()
        if day is not None and style < 0.15:  # time, a number, and the date without any label
            triple: tuple[Cell, ...] = ((clock(rng), 0.0, "l"), (digits(rng, 6), 0.5, "c"), (day, 1.0, "r"))
            head.extend([_middle(f"{self.say('INVOICE NO')}{self.colon}{number(rng)}"), Line(triple)])
        elif style < 0.4:
            gap = rng.uniform(0.28, 0.38)
            for label, value in facts:
                head.append(Line(((self.say(label), 0.0, "l"), (f": {self._kept(value)}", gap, "l"))))
        elif style < 0.55 and all(len(value) < 14 for _, value in facts[:2]):
            for label, value in facts:
                head.append(_pair(self.say(label), self._kept(value)))
        else:
            for label, value in facts:
                head.append(Line(((f"{self.say(label)}{self.colon}{self._kept(value)}", 0.0, "l"),)))
        head.append(RULE if rng.random() < 0.7 else GAP)

    def _kept(self, value: str) -> str:
        return value.upper() if self.capitals else value

    def _goods(self, made: Receipt) -> None:
        rng, body = self.rng, made.body
        style = rng.choice(("plain", "plain", "coded", "counted", "table"))
        count = min(rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 12)), 12)
        if style == "table":
            columns = rng.choice(
                (("QTY", "DESCRIPTION", "PRICE", "AMOUNT"), ("QTY", "ITEM", "RM", "RM"), ("NO", "ITEM", "U.P", "TOTAL"))
            )
            places: tuple[tuple[float, Anchor], ...] = ((0.0, "l"), (0.13, "l"), (0.76, "r"), (1.0, "r"))
            head = tuple((self.say(text), at, anchor) for text, (at, anchor) in zip(columns, places, strict=True))
            body.extend([Line(head), RULE])
        elif rng.random() < 0.4:
            body.append(
                _pair(
                    self.say(rng.choice(("ITEM", "DESCRIPTION"))), self.say(rng.choice(("AMOUNT", "PRICE", "AMT(RM)")))
                )
            )
        cents = 0
        for _ in range(count):
            many = rng.choice((1, 1, 1, 2, 3, rng.randint(1, 12)))
            price = rng.choice(
                (rng.randint(20, 999), rng.randint(100, 5_000), 10 * rng.randint(5, 400), 10 * rng.randint(5, 150))
            )
            cents += many * price
            name, each, whole = self.say(item(rng)), _money(price), _money(many * price)
            if style == "table":
                cells = zip((str(many), name[:19], each, whole), places, strict=True)
                body.append(Line(tuple((text, at, anchor) for text, (at, anchor) in cells)))
            elif style == "coded":
                body.append(
                    Line(((f"{digits(rng, rng.choice((7, 13)))}", 0.0, "l"),))
                    if rng.random() < 0.5
                    else Line(((name, 0.0, "l"),))
                )
                body.append(Line(((f"{many} X {each}", 0.1, "l"), (whole + rng.choice(("", " SR", " S")), 1.0, "r"))))
            elif style == "counted":
                body.append(_pair(f"{many} {name[:24]}", whole))
            else:
                body.append(
                    _pair(name[:24], f"{self.money}{whole}{rng.choice(('', ' s', ' z'))}" if self.money else whole)
                )
                if many > 1:
                    body.append(Line(((f"@{many} X {self.money}{each}", 0.05, "l"),)))
        body.append(RULE if rng.random() < 0.75 else GAP)
        self.cents, self.count = cents, count

    def _sums(self, made: Receipt) -> None:
        """Sums before the total, the total, then what was given and what came back."""
        rng, foot = self.rng, made.foot
        net, tax, before = self.cents, 0, list[tuple[str, str]]()
        place = rng.choice((0.0, 0.0, 0.0, 0.15, 0.3))
        if rng.random() < 0.25:
            foot.append(
                _pair(f"{self.say('ITEM(S)')}{self.colon}{self.count}", f"{self.say('QTY(S)')}{self.colon}{self.count}")
            )
        if rng.random() < 0.55:
            before.append(
                (
                    rng.choice(("SUBTOTAL", "SUB-TOTAL", "SUB TOTAL", "TOTAL EXCL. GST", "TOTAL (EXCLUDING GST)")),
                    _money(net),
                )
            )
        if rng.random() < 0.2:
            off = net // rng.choice((10, 20, 5))
            net -= off
            before.append((rng.choice(("DISCOUNT", "ITEM DISCOUNT", "DISC")), f"-{_money(off)}" if off else "0.00"))
        if rng.random() < 0.15:
            fee = round(net * 0.1)
            net += fee
            before.append((rng.choice(("SERVICE CHARGE 10%", "SVC CHG 10%")), _money(fee)))
        if rng.random() < 0.4:
            tax = round(net * 0.06)
            net += tax
            before.append((rng.choice(("GST @6%", "GST 6%", "GST PAYABLE (6%)", "SST 6%", "GST")), _money(tax)))
        rounded, label = 5 * round(net / 5), rng.choice(WORDS["totals"])
        if rng.random() < 0.45:
            if rng.random() < 0.3:  # a total before it is rounded; the last one is what was paid
                before.append((rng.choice(("TOTAL", "TOTAL AMOUNT", "TOTAL SALES")), _money(net)))
                label = rng.choice(("ROUNDED TOTAL", "ROUNDED TOTAL (RM)", "GRAND TOTAL", "NETT TOTAL", "AMOUNT DUE"))
            before.append((rng.choice(("ROUNDING ADJ", "ROUNDING ADJUSTMENT", "ROUNDING")), _signed(rounded - net)))
            net = rounded
        for named, value in before:
            foot.append(_pair(f"{self.say(named)}{rng.choice((':', ''))}", value, at=place))
        text = _money(net)
        shown = f"{self.money}{text}"
        made.expense["total"] = shown
        foot.append(
            _pair(
                f"{self.say(label)}{rng.choice((':', ' :', ''))}",
                shown,
                rng.choice(("text", "strong", "strong", "wide")),
                place,
            )
        )
        given = net if rng.random() < 0.4 else net + rng.choice((0, 50, 100, 500, 1_000, 5_000 - net % 5_000))
        way = rng.choice(("CASH", "CASH", "CASH", "CASH RECEIVED", "TENDERED", "PAYMENT", "VISA", "CREDIT CARD"))
        if rng.random() < 0.85:
            foot.append(_pair(f"{self.say(way)}{rng.choice((':', ''))}", _money(given), at=place))
            if given > net or rng.random() < 0.5:
                foot.append(
                    _pair(f"{self.say(rng.choice(('CHANGE', 'CHANGE DUE', 'BALANCE')))}", _money(given - net), at=place)
                )
        if tax or rng.random() < 0.35:
            self._tax_table(made, net, tax)

    def _tax_table(self, made: Receipt, net: int, tax: int) -> None:
        rng, foot = self.rng, made.foot
        foot.append(RULE if rng.random() < 0.6 else GAP)
        titles = (("GST SUMMARY", "TAX SUMMARY"), ("AMOUNT(RM)", "AMT(RM)", "AMOUNT"), ("TAX(RM)", "TAX", "GST(RM)"))
        heads = tuple(self.say(rng.choice(title)) for title in titles)
        kind = rng.choice(("SR @ 6%", "SR", "S = 6%", "SR(6%)")) if tax else rng.choice(("ZRL @ 0%", "Z = 0%", "ZR"))
        for cells in (heads, (kind, _money(net - tax), _money(tax))):
            foot.append(Line(((cells[0], 0.0, "l"), (cells[1], 0.7, "r"), (cells[2], 1.0, "r"))))

    def _farewell(self, made: Receipt, day: str | None) -> None:
        rng, foot = self.rng, made.foot
        if day is not None:
            foot.append(RULE if rng.random() < 0.5 else GAP)
            stamp = f"{day} {clock(rng)}"
            foot.append(
                Line(((stamp, 0.0, "l"), (number(rng)[:10], 1.0, "r")))
                if rng.random() < 0.5
                else _middle(labelled(rng, self.say("DATE"), stamp))
            )
        foot.append(GAP)
        if rng.random() < 0.12:
            foot.extend([Line(style="bars"), GAP])
        for _ in range(rng.randint(0, 4)):
            foot.append(_middle(self.say(rng.choice(WORDS["phrases"]))))


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _signed(cents: int) -> str:
    return ("-" if cents < 0 else "") + _money(abs(cents))


# -- setting ---------------------------------------------------------------------------------------------


def draw_faces(rng: Random, split: str, lines: Sequence[Line]) -> tuple[Face, Face]:
    """The face of the text and that of heads; they are the same for two receipts of three."""
    text = "".join(line.text for line in lines)
    kind = rng.choices(("mono", "sans", "serif"), (62, 31, 7))[0]
    face = draw_face(rng, split, text, kind)
    return face, (draw_face(rng, split, text, rng.choice(("mono", "sans", "serif"))) if rng.random() < 0.33 else face)


def set_page(rng: Random, lines: Sequence[Line], faces: tuple[Face, Face], width: int = WIDTH) -> Page:
    """The lines as ink (255) on an empty page of `width` pixels, as high as they need."""
    face, other = faces
    side = rng.uniform(0.02, 0.06) * width
    room = width - 2 * side
    plain = Type(face, rng.triangular(7.0, 10.5, 8.5))
    longest = max(_needed(line, plain) for line in lines)
    # as wide as the paper allows: the longest line fills it, unless letters would be stretched too much
    stretch = max(0.62, min(1.25, rng.uniform(0.86, 1.0) * room / longest))
    plain = replace(plain, stretch=stretch, bold=rng.random() < 0.12)
    if stretch * longest > room:
        plain = replace(plain, cap=max(6.2, plain.cap * room / (stretch * longest)))
    pitch = plain.cap * rng.uniform(1.6, 2.3)
    styles = {
        "text": plain,
        "strong": replace(plain, bold=True, cap=plain.cap * rng.uniform(1.0, 1.15)),
        "head": Type(other, plain.cap * rng.uniform(1.1, 1.7), rng.uniform(0.85, 1.1), bold=rng.random() < 0.5),
        "wide": replace(plain, stretch=min(1.9, stretch * 1.7), bold=rng.random() < 0.3),
    }
    placed: list[tuple[Line, Type, float]] = []
    y = rng.uniform(4, 24)
    for line in lines:
        style = _fit(line, styles.get(line.style, plain), room)
        y += {"gap": 0.6, "rule": 0.85, "bars": 3.2}.get(line.style, 1.0) * max(pitch, style.cap * 1.6)
        placed.append((line, style, y))
    page = Page(width, round(y + rng.uniform(6, 30)))
    dashes = rng.choice(("", "-", "-", "=", ".", "*"))
    for line, style, y in placed:
        if line.style == "rule":
            _rule(page, plain, dashes, side, width - side, y)
        elif line.style == "bars":
            page.bars(rng, width * 0.2, y - 2.6 * pitch, width * 0.8, y)
        for text, at, anchor in line.cells:
            page.text(text, side + at * room, y, style, anchor)
    return page


def _needed(line: Line, style: Type) -> float:
    """How wide the printed part must be, in pixels, so that the line's cells neither touch nor are cut."""
    held = {"l": 1.0, "c": 0.5, "r": 0.0}  # of a cell's width, what lies to the right of its place
    need, before, tail = 0.0, 0.0, 0.0
    for text, at, anchor in line.cells:
        wide = text_width(text, style)
        lead = wide * (1 - held[anchor])
        if tail or lead:
            need = max(need, (tail + lead + (6 if tail else 0)) / max(0.05, at - before))
        before, tail = at, wide * held[anchor]
    return max(need, tail / max(0.05, 1 - before)) if tail else need


def _fit(line: Line, style: Type, room: float) -> Type:
    """The style, narrower and then smaller where the line needs more room; letters stay 6 pixels high."""
    need = _needed(line, style)
    if need <= room:
        return style
    stretch = max(0.62, style.stretch * room / need)
    need *= stretch / style.stretch
    return replace(style, stretch=stretch, cap=max(6.0, style.cap * min(1.0, room / need)))


def _rule(page: Page, style: Type, dashes: str, left: float, right: float, y: float) -> None:
    if not dashes or not style.face.covers(dashes):
        page.line(left, y - style.cap / 2, right, y - style.cap / 2, width=0.7)
        return
    count = int((right - left) / max(1.0, text_width(dashes, style)))
    page.text(dashes * max(1, count), left, y, style)
