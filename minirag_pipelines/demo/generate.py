"""Makes the handbook's Word, Excel and PDF files: `python -m minirag_pipelines.demo.generate`.

The same text gives the same bytes with the same libraries, so a change of wording shows up as a change of one file.
"""

from __future__ import annotations

import io
import re
import textwrap
import zipfile
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

HANDBOOK = Path(__file__).parent / "handbook"
WRITTEN_ON = datetime(2026, 3, 2, 9, 0)  # noqa: DTZ001 - Office files hold local times


class Table(NamedTuple):
    header: list[str]
    rows: list[list[str]]


class Sheet(NamedTuple):
    name: str
    header: list[str]
    rows: list[list[str | int | float]]


Part = str | Table  # of a document: "# …" is a heading, other text a paragraph

LEAVE: list[Part] = [
    "# Working time and leave",
    "This applies to everybody who works for Skerrow Harbour Ferries, on board, on the piers and in the workshop.",
    "## Working time",
    "A full working week has 37.5 hours. A shift is at most 10 hours long, and between two shifts there are at least "
    "11 hours of rest.",
    "The rota is published three weeks ahead. Two people who want to swap shifts tell the crew office by noon of the "
    "day before; both must hold the certificates that the boat needs.",
    "Overtime is paid at one and a half times the hourly rate, and at twice the rate on Sundays.",
    "## Annual leave",
    "A full-time employee has 28 days of annual leave a year. Part-time employees have the same share of it as of the "
    "working week.",
    "Leave for July and August is requested by the end of February, because the summer timetable needs every boat. "
    "Up to five days may be carried over to the next year and are taken by 31 March.",
    "## Sick leave",
    "Call the duty captain as early as you can, at the latest one hour before your shift begins. From the fourth day "
    "on, send a doctor's note to the crew office. Sick pay is your full pay for 13 weeks.",
    "## Special leave",
    Table(
        ["Occasion", "Days", "Paid"],
        [
            ["Wedding", "2", "yes"],
            ["Birth or adoption of a child", "10", "yes"],
            ["Moving house", "1", "yes"],
            ["Death in the family", "5", "yes"],
            ["Lifeboat service", "as needed", "yes"],
            ["Jury service", "as needed", "the difference to your pay"],
        ],
    ),
]

EXPENSES: list[Part] = [
    "# Expenses and training",
    "What you pay for the company is paid back to you with your next salary, if the receipt reaches the crew office by "
    "the 20th of the month.",
    "## Limits",
    Table(
        ["Expense", "Limit", "Approved by"],
        [
            ["Meal on a course", "22.00 a day", "crew office"],
            ["Overnight stay", "110.00 a night", "crew office"],
            ["Own car", "0.42 a kilometre", "crew office"],
            ["Tools", "60.00 a year", "workshop"],
            ["Anything above 250.00", "no fixed limit", "managing director"],
        ],
    ),
    "## Training",
    "The company pays for every certificate that your work needs, and the hours of the course count as working time.",
    "The first-aid certificate is renewed every two years. The radio certificate is renewed every five years. The "
    "crew office reminds you three months before a certificate ends.",
    "Whoever leaves the company within a year of a captain's course pays back half of its price.",
]

SAFETY: list[list[str]] = [
    [
        "# Safety on board",
        "This is what every crew member must know by heart. The captain decides in all matters of safety, and no "
        "timetable is a reason to overrule a captain.",
        "## Before each departure",
        "Count the passengers with the hand counter and write the number in the log. No boat leaves with "
        "more people than "
        "its certificate allows.",
        "Check the life jackets, the two fire extinguishers on each deck and the bilge alarm. Report anything missing "
        "before you cast off, not after.",
        "## Life jackets",
        "There is a life jacket for every person on board and one in ten more in the size for children. Crew members "
        "wear theirs whenever the gangway is down.",
    ],
    [
        "## Weather limits",
        "The ferries stop sailing when the mean wind speed reaches 17 metres per second, measured at Lantern "
        "Point. The "
        "route to Gull Island already stops at 14 metres per second, because its pier is open to the west.",
        "In fog, with less than 300 metres of visibility, boats sail at no more than six knots, with a "
        "lookout on the bow.",
        "When sailings stop, the duty captain tells the Town Quay desk, which puts the notice on all piers within ten "
        "minutes.",
        "## Ice",
        "Decks and gangways are gritted before the first departure when the temperature is below two "
        "degrees. Salt is not "
        "used on aluminium decks.",
    ],
    [
        "## Man overboard",
        'Shout "man overboard" and the side, throw a lifebuoy, and keep pointing at the person until the '
        "boat has turned. "
        "The captain turns towards that side, stops the propeller and sends a distress call on channel 16.",
        "## Fire",
        "Press the alarm, close the doors, and fight the fire only when your way out is free. The engine "
        "room is flooded with "
        "carbon dioxide only after everybody has been counted out of it.",
        "## Drills",
        "Every crew does the man-overboard drill once a month and the fire drill once a quarter. Drills are "
        "written in the "
        "log with the names of those who took part.",
        "## Reporting",
        "Every accident and every near miss is reported on the same day with form S-7. Nobody is blamed for "
        "reporting one.",
    ],
]

FLEET = [
    Sheet(
        "Boats",
        ["Boat", "Built", "Passengers", "Bicycles", "Length (m)", "Engine", "Captain"],
        [
            ["Petrel", 2019, 149, 30, 24.5, "battery-electric", "Ingrid Dahl"],
            ["Fulmar", 2011, 96, 20, 21.0, "diesel", "Joseph Adeyemi"],
            ["Kittiwake", 2006, 72, 12, 18.2, "diesel", "Elin Bergstrom"],
            ["Dunlin", 1998, 48, 6, 15.0, "diesel, reserve boat", "relief captain"],
        ],
    ),
    Sheet(
        "Maintenance",
        ["Boat", "Task", "Interval", "Next due"],
        [
            ["Petrel", "battery inspection", "every 6 months", "2026-06-15"],
            ["Fulmar", "oil change", "every 250 hours", "2026-04-10"],
            ["Kittiwake", "hull cleaning in dry dock", "every 24 months", "2026-11-02"],
            ["Dunlin", "life raft service", "every 12 months", "2026-09-21"],
        ],
    ),
]


def main() -> None:
    """Write the files anew."""
    files = {
        "working-time-and-leave.docx": word(LEAVE),
        "expenses-and-training.docx": word(EXPENSES),
        "safety-on-board.pdf": pdf(SAFETY),
        "fleet.xlsx": excel(FLEET),
    }
    for name, content in files.items():
        (HANDBOOK / name).write_bytes(content)


def word(parts: list[Part]) -> bytes:
    """A Word document."""
    import docx

    document = docx.Document()
    for part in parts:
        if isinstance(part, Table):
            table = document.add_table(rows=0, cols=len(part.header), style="Table Grid")
            for row in (part.header, *part.rows):
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text
        elif part.startswith("#"):
            marks, text = part.split(" ", 1)
            document.add_heading(text, level=len(marks))
        else:
            document.add_paragraph(part)
    properties = document.core_properties
    properties.author, properties.comments = "Skerrow Harbour Ferries", ""
    properties.title = str(parts[0]).removeprefix("# ")
    properties.created = properties.modified = WRITTEN_ON
    written = io.BytesIO()
    document.save(written)
    return _undated(written.getvalue())


def excel(sheets: list[Sheet]) -> bytes:
    """An Excel workbook."""
    import openpyxl  # type: ignore[import-untyped]  # it ships no types

    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for sheet in sheets:
        page = book.create_sheet(sheet.name)
        for row in (sheet.header, *sheet.rows):
            page.append(row)
    written = io.BytesIO()
    book.save(written)
    return _undated(written.getvalue())


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF with a text layer, in the fonts that every reader has."""
    kids = " ".join(f"{5 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
    ]
    for number, paragraphs in enumerate(pages):
        drawn = _drawn(paragraphs)
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> "
            + f"/Contents {6 + 2 * number} 0 R >>".encode(),
            f"<< /Length {len(drawn)} >>\nstream\n".encode() + drawn + b"\nendstream",
        ]
    written, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(written)}\n%%EOF\n"
    return written + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


def _drawn(paragraphs: list[str]) -> bytes:
    """One page's drawing commands, from its top down."""
    commands, y = [], 780
    for paragraph in paragraphs:
        marks = len(paragraph) - len(paragraph.lstrip("#"))
        font, size, width = {0: ("F1", 11, 88), 1: ("F2", 20, 50), 2: ("F2", 14, 70)}[marks]
        for line in textwrap.wrap(paragraph.lstrip("# "), width):
            text = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
            commands.append(f"BT /{font} {size} Tf 60 {y} Td ({text}) Tj ET")
            y -= round(size * 1.4)
        y -= 10
    return "\n".join(commands).encode("cp1252")


def _undated(archive: bytes) -> bytes:
    """The same Office file without the times at which it was packed."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as given, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in given.namelist():
            content = given.read(name)
            if name == "docProps/core.xml":  # openpyxl puts the time of saving there
                content = _with_fixed_times(content)
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, content)
    return written.getvalue()


def _with_fixed_times(core: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", f"{WRITTEN_ON:%Y-%m-%dT%H:%M:%SZ}".encode(), core)


if __name__ == "__main__":
    main()
