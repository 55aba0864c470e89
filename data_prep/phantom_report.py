"""Write the report of a phantom study: MIMIC-CXR's shape, varied wording, words that agree with the picture.

No sentence may equal a prompt of zero-shot scoring (`medxvl.text`); a test compares them.
"""

import numpy as np

from .phantom_image import Finding

# Severity words by kind of finding, small to large (index = extent).
GRADE = {
    "size": (("small", "tiny", "minimal"), ("moderate", "medium-sized"), ("large", "extensive")),
    "degree": (("mild", "slight", "minimal"), ("moderate",), ("severe", "marked", "extensive")),
}
SIDE = {"right": ("right", "right-sided"), "left": ("left", "left-sided"), "both": ("bilateral",)}
LOBE = {"upper": "upper lobe", "mid": "mid lung", "lower": "lower lobe"}
ZONE = {"upper": ("upper lung", "upper zone"), "mid": ("mid lung", "mid zone"), "lower": ("lower lung", "lung base")}

# {s} side, {g} grade, {l} lobe, {z} zone, {v} variant word
POSITIVE = {
    "Atelectasis": ("degree", (
        "{g} {s} basilar atelectasis",
        "platelike atelectasis at the {s} base",
        "there is {s} lower lung volume loss, in keeping with atelectasis",
        "{g} atelectasis at the {s} lung base",
        "linear opacities and volume loss at the {s} base are consistent with atelectasis",
        "streaky {s} basal opacity from {g} atelectasis",
    )),
    "Cardiomegaly": ("degree", (
        "{g} cardiomegaly",
        "the heart is {g}ly enlarged",
        "{g} enlargement of the cardiac silhouette",
        "heart size is enlarged",
        "there is {g} cardiac enlargement",
        "enlarged heart shadow",
    )),
    "Consolidation": ("size", (
        "{g} {s} {l} consolidation",
        "dense consolidation in the {s} {l}",
        "homogeneous opacity with air bronchograms in the {s} {l} represents consolidation",
        "there is a {g} area of lobar consolidation in the {s} {z}",
        "{s} {z} airspace consolidation",
    )),
    "Edema": ("degree", (
        "{g} pulmonary edema",
        "{g} interstitial edema",
        "diffuse hazy opacity and vascular congestion suggest {g} edema",
        "findings of {g} alveolar pulmonary edema",
        "perihilar haze consistent with {g} cardiogenic edema",
        "there is {g} edema with vascular engorgement",
    )),
    "Fracture": ("degree", (
        "{g}ly displaced {s} {v} fracture",
        "there is an acute fracture of the {s} {v}",
        "{s} {v} fracture with {g} displacement",
        "cortical step off of the {s} {v} indicates a fracture",
        "comminuted fracture of the {s} {v}",
    )),
    "Pleural Effusion": ("size", (
        "{g} {s} pleural effusion",
        "there is a {g} {s} effusion",
        "{s} pleural fluid, {g} in amount",
        "blunting of the {s} costophrenic angle represents a {g} effusion",
        "{g} layering {s} pleural effusion",
    )),
    "Pneumonia": ("degree", (
        "{s} {l} pneumonia",
        "patchy {s} {z} opacities, likely pneumonia",
        "{g} multifocal pneumonia in the {s} {z}",
        "fluffy ill defined opacities in the {s} {l} suggest pneumonia",
        "findings compatible with {s} {l} pneumonia",
    )),
    "Pneumothorax": ("size", (
        "{g} {s} {v} pneumothorax",
        "there is a {g} {s} pneumothorax",
        "{s} {v} pneumothorax, {g} in size",
        "a {s} pleural line indicates a {g} pneumothorax",
        "pleural air on the {s}, a {g} pneumothorax",
    )),
    "Lung Opacity": ("degree", (
        "{g} hazy opacity in the {v} {s} {z}",
        "{s} {z} ground-glass opacity",
        "{v} opacity in the {s} {z}",
        "ill defined {v} {s} {l} opacity",
    )),
    "Lung Lesion": ("size", (
        "{g} {s} {l} nodule",
        "a round {g} nodule in the {s} {z}",
        "{s} {l} mass, {g}",
    )),
    "Enlarged Cardiomediastinum": ("degree", (
        "{g} widening of the mediastinum",
        "the mediastinal contour is {g}ly widened",
    )),
    "Pleural Other": ("degree", (
        "{g} {s} pleural thickening",
        "calcified pleural plaque along the {s} chest wall",
    )),
    "Support Devices": ("size", (
        "{v} in place",
        "{v} in standard position",
        "there is a {v}",
    )),
}  # fmt: skip
DEVICE = {
    "tube": ("endotracheal tube", "et tube"),
    "line": ("{s} central venous catheter", "{s} picc line"),
    "pacemaker": ("{s} pacemaker", "{s} dual lead pacemaker"),
}
UNCERTAIN = ("possible {}", "{} cannot be excluded", "question of {}", "findings may represent {}")
NAMES = {  # the finding's noun, for negations and doubts
    "Atelectasis": ("atelectasis",), "Cardiomegaly": ("cardiomegaly", "cardiac enlargement"),
    "Consolidation": ("consolidation", "focal consolidation"), "Edema": ("edema", "pulmonary edema"),
    "Fracture": ("fracture", "acute fracture"), "Pleural Effusion": ("pleural effusion", "effusion"),
    "Pneumonia": ("pneumonia",), "Pneumothorax": ("pneumothorax",),
}  # fmt: skip
NEGATIVE = ("no evidence of {}", "there is no {}", "no {} is seen", "without {}", "no definite {}")
NEGATIVE_PAIR = ("no {} or {}", "no evidence of {} or {}", "there is no {} or {}")
NORMAL_OF = {
    "Cardiomegaly": ("heart size is normal", "the cardiac silhouette is within normal limits"),
}
NORMAL = (
    "no acute cardiopulmonary process", "no acute cardiopulmonary abnormality", "normal chest radiograph",
    "no acute intrathoracic process", "clear lungs", "unremarkable chest",
)  # fmt: skip
REMARKS = (
    "no significant change compared to ___", "compared to the prior study of ___, the appearance is similar",
    "degenerative changes of the thoracic spine", "low lung volumes", "the patient is rotated",
    "follow up radiographs can be obtained as clinically indicated", "findings were discussed with dr. ___",
    "the osseous structures are otherwise unremarkable", "the upper abdomen is unremarkable",
)  # fmt: skip
REASONS = ("dyspnea", "chest pain", "fever and cough", "hypoxia", "status post fall", "shortness of breath", "line placement")


def describe(f: Finding, rng: np.random.Generator, uncertain: bool) -> str:
    """One sentence (no full stop) about a planted finding."""
    if uncertain and f.name in NAMES:
        noun = str(rng.choice(NAMES[f.name]))
        if f.name not in ("Cardiomegaly", "Edema"):
            noun = f"{rng.choice(SIDE[f.side])} {noun}"
        return str(rng.choice(UNCERTAIN)).format(noun)
    grade, templates = POSITIVE[f.name]
    side = str(rng.choice(SIDE[f.side]))
    variant = f.variant
    if f.name == "Support Devices":
        variant = str(rng.choice(DEVICE[f.variant])).format(s=side)
    elif f.variant == "rib":
        variant = f"{f.zone} ribs" if rng.random() < 0.5 else "ribs"
    words = str(rng.choice(GRADE[grade][f.extent]))
    text = str(rng.choice(templates)).format(s=side, g=words, l=LOBE[f.zone], z=rng.choice(ZONE[f.zone]), v=variant)
    text = text.replace("extensively", "severely")
    if f.side == "both":
        text = text.replace("lobe", "lobes").replace("lung base", "lung bases").replace("angle represents", "angles represents")
        text = text.replace("a bilateral pleural line", "bilateral pleural lines").replace("there is a small bilateral", "there are small bilateral")
    return text


def negate(absent: list[str], rng: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
    """`count` sentences that rule out absent findings; returns the sentences and the findings they name."""
    order = [str(n) for n in rng.permutation(absent)]
    sentences, named = [], []
    while order and len(sentences) < count:
        first = order.pop()
        if first in NORMAL_OF and rng.random() < 0.35:
            sentences.append(str(rng.choice(NORMAL_OF[first])))
            named.append(first)
        elif order and rng.random() < 0.45:
            second = order.pop()
            nouns = [str(rng.choice(NAMES[n])) for n in (first, second)]
            sentences.append(str(rng.choice(NEGATIVE_PAIR)).format(*nouns))
            named += [first, second]
        else:
            sentences.append(str(rng.choice(NEGATIVE)).format(rng.choice(NAMES[first])))
            named.append(first)
    return sentences, named


def write_report(findings: list[Finding], view: str, rng: np.random.Generator) -> tuple[str, dict[str, int]]:
    """Report text in MIMIC-CXR's form and its mention labels {finding: 1, 0 or -1}; what is not named has no label."""
    labels, positive = {}, []
    for f in findings:
        doubt = f.name in NAMES and rng.random() < 0.05
        labels[f.name] = -1 if doubt else 1
        positive.append((f, doubt))
    absent = [n for n in NAMES if n not in labels]
    impression = [describe(f, rng, doubt) for f, doubt in positive]
    if not [f for f in findings if f.name != "Support Devices"]:
        labels["No Finding"] = 1
        if rng.random() < 0.75:
            impression.append(str(rng.choice(NORMAL)))
    ruled_out, named = negate(absent, rng, int(rng.choice([1, 2], p=[0.6, 0.4]) if not impression else rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15])))
    impression = [str(s) for s in rng.permutation(impression + ruled_out)]
    if rng.random() < 0.08:
        impression.append(str(rng.choice(REMARKS)))

    more, also = negate([n for n in absent if n not in named], rng, int(rng.integers(0, 3)))
    body = [describe(f, rng, doubt) for f, doubt in positive] + more
    body += [str(s) for s in rng.choice(REMARKS, int(rng.integers(1, 3)), replace=False)]
    body = [str(s) for s in rng.permutation(body)]
    labels |= dict.fromkeys(named + also, 0)

    age = "___ year old " + str(rng.choice(("man", "woman")))
    prior = "Chest radiograph ___" if rng.random() < 0.5 else "None"
    text = (
        " " * 33 + "FINAL REPORT\n"
        f" EXAMINATION:  CHEST ({'PORTABLE AP' if view == 'AP' else 'PA AND LAT'})\n\n"
        f" INDICATION:  {age} with {rng.choice(REASONS)}\n\n"
        f" COMPARISON:  {prior}.\n\n"
        f" FINDINGS:\n\n {_prose(body)}\n\n"
        f" IMPRESSION:\n\n {_prose(impression)}\n"
    )
    return text, labels


def _prose(sentences: list[str]) -> str:
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)
