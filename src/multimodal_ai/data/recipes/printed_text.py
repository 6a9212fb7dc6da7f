"""Texts as they are printed on receipts, labels and pages: what rendered images show.

Every text consists of CHARACTERS, stands on one line, has no leading, trailing or doubled spaces, and comes from a
random stream alone; the words stand in `printed_words.yaml`.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from random import Random
from typing import Any

from multimodal_ai.data.recipes.common import read_yaml

WORDS: dict[str, Any] = read_yaml("printed_words.yaml")

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONG_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                "November", "December")  # fmt: skip
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[]_~"
#: What a text may hold: ASCII, Latin-1 and the dashes and quotation marks of print.
CHARACTERS = frozenset(map(chr, (*range(32, 127), *range(0xA1, 0xAD), *range(0xAE, 0x100)))) | frozenset("–—‘’“”…€")
_LATIN = "£€¥éèüöäñçÉÜÖ°½"


def company(rng: Random) -> str:
    """A shop's or company's name in capitals, such as `HUP SENG HARDWARE SDN BHD`."""
    name, trade, legal = rng.choice(WORDS["names"]), rng.choice(WORDS["trades"]), rng.choice(WORDS["legal"])
    style = rng.random()
    if style < 0.15:
        name += f" {rng.choice(WORDS['names'])}"
    elif style < 0.25:
        return f"{rng.choice(WORDS['chains'])} {name} {legal}".strip()
    elif style < 0.32:
        name = f"{rng.choice(string.ascii_uppercase)}{rng.choice('.&')}{rng.choice(string.ascii_uppercase)} {name}"
    elif style < 0.38:
        name += f" ({rng.choice(WORDS['areas'])})"
    return f"{name} {trade} {legal}".strip() if rng.random() < 0.8 and trade != legal else f"{name} {legal}".strip()


def address(rng: Random) -> list[str]:
    """One to four printed lines of an address in capitals; lines but the last mostly end in a comma."""
    town, codes, state = rng.choice(WORDS["towns"])
    code = rng.choice(codes)
    number = str(rng.randint(1, 199))
    if not code[:5].isdigit() or len(code) < 5 or state in ("TX", "OR", "OH"):  # western
        street = f"{number} {rng.choice(WORDS['western_streets'])}"
        return [street, f"{town} {code}" if state in ("UK", "") else f"{town}, {state} {code}"]
    style = rng.random()
    if style < 0.3:
        number += f", {int(number) + 2}" + (f" & {int(number) + 4}" if rng.random() < 0.3 else "")
    elif style < 0.4:
        number += rng.choice("ABG")
    elif style < 0.5:
        number = f"{rng.choice('ABCG')}-{rng.randint(1, 9)}-{rng.randint(1, 30)}"
    prefix = rng.choice(("NO. ", "NO.", "NO ", "LOT ", "LOT P.T. ", "", "", "UNIT ", "GROUND FLOOR, NO. "))
    road = (
        rng.choice(("JALAN", "JALAN", "JALAN", "JLN", "LEBUH", "LORONG", "PERSIARAN"))
        + f" {rng.choice(WORDS['streets'])}"
    )
    road += rng.choice(("", "", f" {rng.randint(1, 30)}", f" {rng.randint(1, 30)}/{rng.randint(1, 30)}"))
    area = rng.choice(WORDS["areas"])
    place = f"{code} {town}"
    tail = state not in ("", town) and rng.random() < 0.7
    style = rng.random()
    if style < 0.35:
        lines = [f"{prefix}{number}, {road}", area, f"{place}, {state}" if tail else place]
    elif style < 0.55:
        lines = [f"{prefix}{number}, {road}", area, place, *([state] if tail else [])]
    elif style < 0.75:
        lines = [f"{prefix}{number}, {road}", f"{area}, {place}", *([f"{state}"] if tail else [])]
    elif style < 0.9:
        lines = [f"{prefix}{number}", road, f"{area}, {place}"]
    else:
        lines = [f"{prefix}{number}, {road}", f"{place}, {state}" if tail else place]
    if rng.random() < 0.1:
        lines.append("MALAYSIA")
    comma = "," if rng.random() < 0.85 else ""
    last = rng.choice((".", "", "", ""))
    return [line + comma for line in lines[:-1]] + [lines[-1] + last]


def date(rng: Random) -> str:
    """A date between 2009 and 2029 in one of the common forms."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.choice((*range(2009, 2030), *range(2016, 2020)))
    style = rng.random()
    if style < 0.42:
        return f"{day:02d}/{month:02d}/{year}"
    if style < 0.52:
        return f"{day:02d}-{month:02d}-{year}"
    if style < 0.60:
        return f"{day:02d}-{month:02d}-{year % 100:02d}"
    if style < 0.68:
        return f"{day:02d}/{month:02d}/{year % 100:02d}"
    if style < 0.73:
        return f"{year}-{month:02d}-{day:02d}"
    if style < 0.77:
        return f"{day:02d}.{month:02d}.{rng.choice((str(year), f'{year % 100:02d}'))}"
    if style < 0.85:
        name = _MONTHS[month - 1]
        return f"{day:02d} {rng.choice((name, name.upper()))} {rng.choice((str(year), f'{year % 100:02d}'))}"
    if style < 0.90:
        return f"{day:02d}-{_MONTHS[month - 1].upper()}-{year}"
    if style < 0.94:
        return f"{rng.choice((_MONTHS, _LONG_MONTHS))[month - 1]} {day}, {year}"
    if style < 0.97:
        return f"{day} {_LONG_MONTHS[month - 1]} {year}"
    return f"{year}{month:02d}{day:02d}"


def clock(rng: Random) -> str:
    """A time of day, such as `18:24`, `8:13:39 PM` or `07:44PM`."""
    hour, minute, second = rng.randint(0, 23), rng.randint(0, 59), rng.randint(0, 59)
    seconds = f":{second:02d}" if rng.random() < 0.5 else ""
    if rng.random() < 0.55:
        return f"{hour:02d}:{minute:02d}{seconds}"
    half = rng.choice((" AM", " PM", "AM", "PM", " am", "pm"))
    return f"{rng.choice((str(hour % 12 or 12), f'{hour % 12 or 12:02d}'))}:{minute:02d}{seconds}{half}"


def amount(rng: Random) -> str:
    """An amount of money with two decimals; most are below 100."""
    style = rng.random()
    whole = rng.randint(0, 19) if style < 0.45 else rng.randint(0, 99) if style < 0.8 else rng.randint(100, 999)
    if style > 0.95:
        whole = rng.randint(1_000, 20_000)
    cents = rng.choice((0, 0, 50, 90, 10 * rng.randrange(10), 5 * rng.randrange(20), rng.randrange(100)))
    return (f"{whole:,}" if rng.random() < 0.8 else str(whole)) + f".{cents:02d}"


def money(rng: Random) -> str:
    """An amount with a currency sign before it, now and then none."""
    return rng.choice(("", "", "RM", "RM ", "RM ", "$", "$", "MYR ", "S$", "USD ", "EUR ", "€", "£", "GBP ")) + amount(
        rng
    )


def digits(rng: Random, count: int) -> str:
    """`count` random digits."""
    return "".join(rng.choice(string.digits) for _ in range(count))


def number(rng: Random) -> str:
    """A document's number, such as `TD01167104`, `18314/102/T0422` or `CS-24399`."""
    letters = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(1, 3)))
    return rng.choice(
        (
            digits(rng, rng.randint(4, 12)),
            letters + digits(rng, rng.randint(4, 14)),
            f"{letters}-{digits(rng, rng.randint(3, 8))}",
            f"{letters} {digits(rng, rng.randint(4, 6))}",
            f"{digits(rng, 5)}/{digits(rng, 3)}/{letters[0]}{digits(rng, 4)}",
            f"{letters}{digits(rng, 2)}-{digits(rng, 5)}",
            f"#{digits(rng, rng.randint(3, 6))}",
        )
    )


def company_number(rng: Random) -> str:
    """A registration number, such as `867388-U` or `(002231061-T)`."""
    text = f"{digits(rng, rng.choice((6, 6, 6, 7, 9)))}-{rng.choice('ADHKMPTUVWX')}"
    return rng.choice((text, f"({text})", f"({text[:-2]} {text[-1]})"))


def tax_number(rng: Random) -> str:
    """A tax number of twelve digits, as Malaysian receipts print it."""
    return f"00{digits(rng, 10)}"


def phone(rng: Random) -> str:
    """A telephone number, such as `03-7880 5750`, `+603-3362 4137` or `07-3541 224`."""
    area = rng.choice(("03", "03", "07", "04", "05", "012", "016", "019", "+603", "+6012"))
    rest = digits(rng, rng.randint(7, 8))
    return area + rng.choice(("-", "-", " ", " - ", "- ")) + rng.choice((rest, f"{rest[:4]} {rest[4:]}"))


def labelled(rng: Random, label: str, value: str) -> str:
    """`label` and `value` as forms join them: `DATE: x`, `DATE : x`, `DATE x`."""
    return f"{label}{rng.choice((': ', ': ', ' : ', ' :', ':', ' '))}{value}"


def item(rng: Random) -> str:
    """What was bought, with a size, a code or a count now and then."""
    name = rng.choice(WORDS["items"])
    style = rng.random()
    if style < 0.15:
        name = f"{digits(rng, rng.randint(3, 4))} {name}"
    elif style < 0.3:
        name += f" {rng.randint(1, 900)}{rng.choice(WORDS['units'])}"
    elif style < 0.36:
        name = f"{name[: rng.randint(5, 16)].rstrip()}"  # cut, as narrow printers do
    elif style < 0.42:
        name = f"SR {name}"
    elif style < 0.46:
        name += f" ({rng.choice(('S', 'M', 'L', 'B', 'RED', 'BK', '12S', '2PCS'))})"
    return name


def _line_of_item(rng: Random) -> str:
    quantity, price = rng.randint(1, 12), amount(rng)
    return rng.choice(
        (
            f"{item(rng)} {price}",
            f"{item(rng)} RM{price} {rng.choice('sz')}",
            f"{quantity} {item(rng)} {price}",
            f"{quantity} X {price}",
            f"{quantity} x {price} {amount(rng)} SR",
            f"@{quantity} X RM {price}",
            f"{digits(rng, rng.choice((7, 13)))} {price}",
            digits(rng, rng.choice((7, 10, 13))),
            f"{price} {rng.choice(('SR', 'ZRL', 'S', 'T', '*'))}",
        )
    )


def _pick(name: str) -> Callable[[Random], str]:
    return lambda rng: str(rng.choice(WORDS[name]))


def _code(rng: Random) -> str:
    """Characters without a meaning, each as likely as another: nothing can be guessed, all must be seen."""
    pool = rng.choice(
        (
            string.ascii_uppercase + string.digits,
            string.ascii_uppercase + string.digits + _PUNCTUATION,
            string.ascii_letters + string.digits,
            string.ascii_letters + string.digits + _PUNCTUATION,
            string.digits + ".,:-/",
            string.ascii_letters + _PUNCTUATION + _LATIN,
        )
    )
    words = ("".join(rng.choice(pool) for _ in range(rng.randint(2, 8))) for _ in range(rng.choice((1, 1, 2, 2, 3))))
    return " ".join(words)


#: Kinds of receipt line with their weights.
LINES: tuple[tuple[float, Callable[[Random], str]], ...] = (
    (9, company),
    (9, lambda rng: rng.choice(address(rng))),
    (3, lambda rng: " ".join(address(rng)[:2])),
    (5, date),
    (3, lambda rng: labelled(rng, rng.choice(WORDS["date_labels"]), date(rng))),
    (4, lambda rng: f"{date(rng)} {clock(rng)}"),
    (3, lambda rng: labelled(rng, rng.choice(WORDS["date_labels"]), f"{date(rng)} {clock(rng)}")),
    (2, clock),
    (5, amount),
    (4, money),
    (7, lambda rng: labelled(rng, rng.choice(WORDS["totals"]), money(rng))),
    (4, lambda rng: labelled(rng, rng.choice(WORDS["sums"]), money(rng))),
    (3, lambda rng: labelled(rng, rng.choice(WORDS["payments"]), money(rng))),
    (3, lambda rng: rng.choice(WORDS["totals"] + WORDS["sums"] + WORDS["payments"]) + rng.choice((":", "", " :"))),
    (5, item),
    (7, _line_of_item),
    (3, number),
    (4, lambda rng: labelled(rng, rng.choice(WORDS["number_labels"]), number(rng))),
    (3, lambda rng: labelled(rng, rng.choice(WORDS["tax_labels"]), tax_number(rng))),
    (2, company_number),
    (2, lambda rng: f"({labelled(rng, rng.choice(WORDS['company_labels']), company_number(rng).strip('()'))})"),
    (2, lambda rng: labelled(rng, rng.choice(("TEL", "TEL", "TEL NO", "FAX", "PHONE", "H/P")), phone(rng))),
    (1, phone),
    (2, lambda rng: labelled(rng, rng.choice(WORDS["person_labels"]), rng.choice(WORDS["persons"]))),
    (2, _pick("headings")),
    (3, _pick("phrases")),
    (1, _pick("signs")),
    (9, _code),
)
_DRAWERS = tuple(drawer for _, drawer in LINES)
_WEIGHTS = tuple(weight for weight, _ in LINES)


def receipt_line(rng: Random) -> str:
    """One line as receipts print it: 60% in capitals, the rest as words are written."""
    drawer = rng.choices(_DRAWERS, _WEIGHTS)[0]
    return cased(drawer(rng), rng) if drawer is not _code else drawer(rng)


def cased(text: str, rng: Random, capitals: float = 0.6) -> str:
    """The text as it is, or with words of three letters and more in small letters behind their first."""
    return text if rng.random() < capitals else title(text)


def title(text: str) -> str:
    """Words of capitals as they are written in prose: `JALAN U13/2` becomes `Jalan U13/2`."""
    return " ".join(word if _stays(word) else _small(word) for word in text.split(" "))


def _stays(word: str) -> bool:
    return any(char.isdigit() for char in word) or word.strip(".,:()#") in _SHORT or "(RM" in word or "(MYR" in word


_SHORT = frozenset(
    [
        "RM",
        "GST",
        "MYR",
        "USD",
        "EUR",
        "GBP",
        "SR",
        "KL",
        "M",
        "NO",
        "TX",
        "UK",
        "OR",
        "OH",
        "AM",
        "PM",
        "ID",
        "SS",
        "VAT",
        "SST",
        "LED",
        "PVC",
        "USJ",
        "PJS",
        "A.K",
        "K.S",
        "S/B",
        "LLC",
        "SWC",
        "ENW",
    ]
)


def _small(word: str) -> str:
    done, start = [], True
    for char in word:
        done.append(char if start else char.lower())
        start = not char.isalpha() and char != "'"
    return "".join(done)
