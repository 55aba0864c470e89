"""The table of settings, settings.csv: one row per setting, one column per preset.

Only the standard library is imported here, so that `./run_all.sh settings` works before anything is
installed. The columns of the table:

- name, group: a notebook runs again when a setting of one of its groups changes
  (medxvl/config/notebooks.py);
- one column per preset, between `group` and `least`: a further preset is a further column;
- least, most: bounds of a number; choices: the values of a setting that has few, separated by |
  ("list:" before them: several may be given, separated by commas);
- meaning, source: what the setting does, and where the value of preset `paper` comes from;
- former: the value that trainings had before there was such a setting. Weights that do not name the
  setting count as trained with it.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("settings.csv")


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    values: {preset: value}, all of the type `kind`; least, most: bounds (None: no bound); choices:
    allowed values (empty: any), of which `several` says that a list may be given; former: None
    where the table leaves it empty.
    """

    name: str
    group: str
    kind: type
    values: dict[str, int | float | str]
    least: float | None
    most: float | None
    choices: tuple
    several: bool
    meaning: str
    source: str
    former: int | float | str | None

    @classmethod
    def from_row(cls, row: dict[str, str], presets: tuple[str, ...]) -> "Setting":
        """`row`: cells by column. ValueError where a preset's value has another type or is out of
        bounds.
        """
        texts = [row[preset] for preset in presets]
        kind = next(kind for kind in (int, float, str) if _are_all(kind, texts))
        choices = row["choices"].removeprefix("list:")
        setting = cls(
            name=row["name"],
            group=row["group"],
            kind=kind,
            values={preset: kind(row[preset]) for preset in presets},
            least=kind(row["least"]) if row["least"] else None,
            most=kind(row["most"]) if row["most"] else None,
            choices=tuple(kind(text.strip()) for text in choices.split("|")) if choices else (),
            several=row["choices"].startswith("list:"),
            meaning=row["meaning"],
            source=row["source"],
            former=kind(row["former"]) if row["former"] else None,
        )
        for value in setting.values.values():
            setting.check(value)
        return setting

    def value(self, text: str) -> int | float | str:
        """`text` as a value of this setting; ValueError says what is expected."""
        try:
            value = self.kind(text)
        except ValueError:
            expected = {int: "a whole number", float: "a number"}[self.kind]
            raise ValueError(f"setting {self.name}={text!r}: expected {expected}") from None
        self.check(value)
        return value

    def check(self, value: int | float | str) -> None:
        """ValueError where the value is none that this setting may have."""
        said = f"setting {self.name}={value}: expected"
        if self.kind is not str and not self.choices:
            above = self.least is None or value >= self.least  # NaN is neither
            finite = self.kind is int or math.isfinite(value)
            below = finite and (self.most is None or value <= self.most)
            if not (above and below):
                limits = [f"at least {self.least}"] if self.least is not None else []
                limits += [f"at most {self.most}"] if self.most is not None else []
                raise ValueError(f"{said} {', '.join(limits)}")
        if self.choices:
            given = [part.strip() for part in value.split(",")] if self.several else [value]
            if not set(given) <= set(self.choices):
                expected = "one or more of" if self.several else "one of"
                after = ", separated by commas" if self.several else ""
                names = [str(choice) or "nothing" for choice in self.choices]
                raise ValueError(f"{said} {expected} {', '.join(names)}{after}")


def _are_all(kind: type, texts: list[str]) -> bool:
    try:
        for text in texts:
            kind(text)
    except ValueError:
        return False
    return True


def read(file: Path = FILE) -> tuple[tuple[str, ...], dict[str, Setting]]:
    """Names of the presets, and the settings by name, of a table."""
    with open(file, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        columns = list(reader.fieldnames or [])
        presets = tuple(columns[columns.index("group") + 1 : columns.index("least")])
        settings = [Setting.from_row(row, presets) for row in reader]
    return presets, {setting.name: setting for setting in settings}


PRESETS, TABLE = read()
FORMER = {name: row.former for name, row in TABLE.items() if row.former is not None}
