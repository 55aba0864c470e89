"""What a training was made with: the recipe that its weights and states carry."""

import hashlib
import json
import warnings
from dataclasses import dataclass

from data_prep import code
from medxvl.config import presets
from medxvl.config import settings as settings_table


@dataclass(frozen=True)
class Recipe:
    """What shapes a training: its settings by name, the fingerprint of its data, its code by file.

    Weights and states of a training carry their recipe; they are taken for a recipe's own only
    where settings and data agree. Code is another matter: `keeps` says whether a training goes on,
    or is read back, although code changed since (preset paper: days of training are not lost to a
    refactoring) or is made anew (the small presets: minutes).
    """

    settings: dict
    data: str
    code: dict[str, str]
    keeps: bool

    @classmethod
    def of(
        cls,
        preset,
        groups: tuple[str, ...],
        data: str,
        module: str,
        without: tuple[str, ...] = (),
        **more,
    ) -> "Recipe":
        """Recipe of a training that the module `module` defines, from the settings in `groups` and
        those of HOW but for `without`. `more`: what else shapes it, such as a fingerprint of the
        weights it starts from; None where that cannot be known here any more."""
        settings = presets.group(preset, *groups)
        settings |= {name: getattr(preset, name) for name in HOW}
        settings = {name: value for name, value in settings.items() if name not in without}
        closure = code.tree().closure([module])
        return cls(settings | more, data, closure, preset.name in KEEP)

    def about(self) -> dict:
        """As plain data, for the header of a weights file."""
        return {"settings": self.settings, "data": self.data, "code": self.code}

    def differs(self, about: dict) -> list[str]:
        """What differs between this recipe and `about`, the description that weights or a state
        carry, in words; [] where settings and data agree.

        A setting that one of the two does not name counts as the value that
        `settings.FORMER` gives, and what this recipe does not know is not compared. Weights
        that medxvl 0.1.0 saved before there were recipes name their whole preset and no data:
        their settings are compared.
        """
        theirs = about.get("settings")
        old = not isinstance(theirs, dict)
        if old:
            theirs = json.loads(about.get("preset") or "{}")
        if not theirs:
            return ["it does not say what settings it was made with"]
        names = self.settings.keys() & theirs if old else self.settings.keys() | theirs
        told = []
        for name in sorted(names):
            a, b = (
                where.get(name, settings_table.FORMER.get(name, "not named"))
                for where in (theirs, self.settings)
            )
            if a != b and b is not None:
                told.append(f"{name}={a} instead of {b}")
        if not old and about.get("data") != self.data:
            told.append("other data")
        return told

    def changed_code(self, about: dict) -> list[str]:
        """Files whose code differs from, or is not in, the code that `about` names."""
        theirs = about.get("code") or {}
        both = self.code.keys() | theirs.keys()
        return sorted(file for file in both if self.code.get(file) != theirs.get(file))

    def warn_of_code(self, about: dict, what: object) -> None:
        """Warn, naming the files, where code changed since `what` was made."""
        if files := self.changed_code(about):
            some = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if files[8:] else "")
            since = some if about.get("code") else "it does not name its data and code"
            warnings.warn(f"{what} was trained by other code: {since}", stacklevel=3)


HOW = ("seed", "threads", "precision", "accumulation")  # settings that shape every training
KEEP = ("paper",)  # presets whose trainings survive a change of code


def digest(value) -> str:
    """12 hex digits of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
