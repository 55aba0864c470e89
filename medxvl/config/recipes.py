"""What a training was made with: the recipe that its weights and states carry."""

import hashlib
import json
import warnings
from dataclasses import dataclass

from data_prep import code
from medxvl.config import presets


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
    def of(cls, preset, groups: tuple[str, ...], data: str, module: str, **more) -> "Recipe":
        """Recipe of a training that the module `module` defines, from the settings in `groups` and
        those of HOW; `more`: further things that shape it, such as the weights it starts from."""
        settings = presets.group(preset, *groups)
        settings |= {name: getattr(preset, name) for name in HOW if name not in more}
        settings |= {name: value for name, value in more.items() if value is not None}
        return cls(settings, data, code.tree().closure([module]), preset.name in KEEP)

    def about(self) -> dict:
        """As plain data, for the header of a weights file."""
        return {"settings": self.settings, "data": self.data, "code": self.code}

    def differs(self, about: dict) -> list[str]:
        """What differs between this recipe and `about`, the description that weights or a state
        carry, in words; [] where settings and data agree.

        A setting that one of the two does not name counts as the value that
        `presets.WHILE_ABSENT` gives. Files of medxvl 0.1.0 before recipes name their whole preset
        and no data: their settings are compared.
        """
        theirs, told = about.get("settings"), []
        old = not isinstance(theirs, dict)
        if old:
            theirs = json.loads(about.get("preset") or "{}")
        for name in self.settings.keys() | (set() if old else theirs.keys()):
            if old and name not in theirs:
                continue  # such as the weights it started from
            a, b = (
                where.get(name, presets.WHILE_ABSENT.get(name, "not named"))
                for where in (theirs, self.settings)
            )
            if a != b:
                told.append(f"{name}={a} instead of {b}")
        if not old and about.get("data") != self.data:
            told.append("other data")
        return sorted(told)

    def changed_code(self, about: dict) -> list[str]:
        """Files whose code differs from, or is not in, the code that `about` names."""
        theirs = about.get("code") or {}
        both = self.code.keys() | theirs.keys()
        return sorted(file for file in both if self.code.get(file) != theirs.get(file))

    def warn_of_code(self, about: dict, what: object) -> None:
        """Warn, naming the files, where code changed since `what` was made."""
        if files := self.changed_code(about):
            some = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if files[8:] else "")
            since = some if about.get("code") else "it does not name its code"
            warnings.warn(f"{what} was trained by other code: {since}", stacklevel=3)


HOW = ("seed", "threads", "precision", "accumulation")  # settings that shape every training
KEEP = ("paper",)  # presets whose trainings survive a change of code


def digest(value) -> str:
    """12 hex digits of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
