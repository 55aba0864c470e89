"""Write the report of a phantom study: MIMIC-CXR's shape, varied wording, words that agree with the
picture.

No sentence equals a prompt of zero-shot scoring (`data_prep.reports.prompts`).
"""

import numpy as np

from data_prep.phantom.anatomy import Finding, pick
from data_prep.reports import prompts

# Every sentence of zero-shot scoring, without full stop: no training sentence may be one.
FORBIDDEN = {
    sentence.strip(" .")
    for finding, sentences in (prompts.PROMPTS | prompts.UNSEEN_PROMPTS).items()
    for sentence in (*sentences, prompts.negative_prompt(finding))
}

# A word of place or extent is as frequent as its opposite, given how often each is planted: else an
# error that swaps them (medxvl.xvl.report_errors) could be told from the text alone. Severity words
# by kind of finding, small to large (index = extent).
GRADE = {
    "size": (
        ("small", "tiny", "minimal"),
        ("moderate", "medium-sized"),
        ("large", "sizable", "extensive"),
    ),
    "degree": (("mild", "slight", "minimal"), ("moderate",), ("severe", "severe", "extensive")),
}
SIDE = {"right": ("right", "right-sided"), "left": ("left", "left-sided"), "both": ("bilateral",)}
LOBE = {
    "upper": ("upper lobe",),
    "mid": ("mid lung",),
    "lower": ("lower lobe", "lower lobe", "lung base"),
}
LUNG = {"right": "the right lung", "left": "the left lung", "both": "both lungs"}
ZONE = {
    "upper": ("upper lung", "upper zone"),
    "mid": ("mid lung", "mid zone"),
    "lower": ("lower lung", "lower zone", "lung base"),
}
RIB = {
    "upper": ("upper rib", "rib"),
    "mid": ("mid rib", "rib"),
    "lower": ("lower rib", "rib", "rib"),
}
VARIANT = {
    "apical": ("apical", "apicolateral", "apicolateral"),
    "peripheral": ("peripheral",) * 3 + ("subpleural",) * 2,
    "both central": ("perihilar",),
}

# Noun phrases of each finding; {s} side, {g} grade, {w} lung, {l} lobe, {z} zone, {v} variant word.
POSITIVE = {
    "Atelectasis": (
        "degree",
        (
            "atelectasis",
            "{g} {s} basilar atelectasis",
            "{g} atelectasis at the {s} base",
            "platelike {s} atelectasis",
            "patchy {s} basilar atelectasis",
            "{s} basilar volume loss due to atelectasis",
            "{g} {s} volume loss and atelectasis",
            "linear {s} atelectasis",
        ),
    ),
    "Cardiomegaly": (
        "degree",
        (
            "cardiomegaly",
            "{g} cardiomegaly",
            "{g} cardiac enlargement",
            "{g} enlargement of the cardiac silhouette",
            "enlarged heart",
            "{g} enlargement of the heart shadow",
        ),
    ),
    "Consolidation": (
        "size",
        (
            "consolidation",
            "{g} {s} {l} consolidation",
            "focal {s} consolidation",
            "homogeneous {s} lobar consolidation",
            "{g} consolidation in the {s} {l}",
            "{g} {s} pulmonary consolidation",
            "consolidation of a {s} lobe",
        ),
    ),
    "Edema": (
        "degree",
        (
            "edema",
            "{g} pulmonary edema",
            "{g} interstitial edema",
            "{g} interstitial pulmonary edema",
            "{g} alveolar edema",
            "diffuse hazy edema",
            "{g} cardiogenic edema",
        ),
    ),
    "Fracture": (
        "degree",
        (
            "fracture",
            "{s} {v} fracture",
            "displaced {s} {v} fracture",
            "fracture of the {s} {v}",
            "comminuted {s} {v} fracture",
            "cortical step off from a {s} {v} fracture",
            "angulated {v} fracture",
        ),
    ),
    "Pleural Effusion": (
        "size",
        (
            "pleural effusion",
            "{g} {s} pleural effusion",
            "{g} {s} effusion",
            "{g} {s} pleural fluid",
            "{g} layering {s} effusion",
            "blunting of the {s} costophrenic angle from an effusion",
            "{g} pleural fluid on the {s}",
            "{g} pleural effusions",
        ),
    ),
    "Pneumonia": (
        "degree",
        (
            "pneumonia",
            "{g} {s} {l} pneumonia",
            "{s} pneumonia with ill defined borders",
            "fluffy opacity of {s} pneumonia",
            "{g} pneumonia in the {s} {z}",
            "{g} multifocal {s} pneumonia",
            "patchy {s} pneumonia",
            "patchy pneumonia in {w}",
        ),
    ),
    "Pneumothorax": (
        "size",
        (
            "pneumothorax",
            "{g} {s} pneumothorax",
            "{g} {s} {v} pneumothorax",
            "{g} {v} pneumothorax",
            "{s} lateral pleural line of a pneumothorax",
            "pleural air from a {s} pneumothorax",
        ),
    ),
    "Lung Opacity": (
        "degree",
        (
            "{g} {v} {s} {z} opacity",
            "{g} hazy opacity in the {v} {s} {z}",
            "{s} {z} ground-glass opacity",
            "{g} patchy {v} opacities",
            "ill defined {v} opacity",
            "{g} {v} opacities in {w}",
            "{v} ground-glass opacity in {w}",
        ),
    ),
    "Lung Lesion": ("size", ("{g} {s} {l} nodule", "round nodule in the {s} {z}", "{s} {l} mass")),
    "Enlarged Cardiomediastinum": ("degree", ("{g} mediastinal widening", "widened mediastinum")),
    "Pleural Other": ("degree", ("{g} {s} pleural thickening", "calcified {s} pleural plaque")),
    "Support Devices": ("size", ("{v}",)),
}
STATED = (
    "{}",
    "{}",
    "{} is present",
    "{} is seen",
    "{} is noted",
    "there is {}",
    "findings suggest {}",
    "findings suggesting {}",
    "appearance represents {}",
    "likely {}",
    "the presence of {} is noted",
)
DEVICE = {
    "tube": ("endotracheal tube", "et tube"),
    "line": ("{s} central venous catheter", "{s} picc line"),
    "pacemaker": ("{s} pacemaker", "{s} dual lead pacemaker"),
}
UNCERTAIN = ("possible {}", "{} cannot be excluded", "question of {}", "{} may be present")
NAMES = {  # the finding's noun, for negations and doubts
    "Atelectasis": ("atelectasis",),
    "Cardiomegaly": ("cardiomegaly", "cardiac enlargement"),
    "Consolidation": ("consolidation", "focal consolidation"),
    "Edema": ("edema", "pulmonary edema"),
    "Fracture": ("fracture", "acute fracture"),
    "Pleural Effusion": ("pleural effusion", "effusion"),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Lung Opacity": ("opacity", "focal opacity", "airspace opacity", "lung opacity"),
}
OPAQUE = {
    "Atelectasis",
    "Consolidation",
    "Edema",
    "Pneumonia",
    "Lung Lesion",
}  # nobody rules out an opacity beside one of these
NEGATIVE = (
    "no evidence of {}",
    "there is no {}",
    "no {} is seen",
    "no sign of {}",
    "no definite {}",
)
NEGATIVE_PAIR = ("no {} or {}", "no evidence of {} or {}", "there is no {} or {}")
NORMAL_OF = {
    "Cardiomegaly": ("heart size is normal", "the cardiac silhouette is within normal limits"),
    "Lung Opacity": ("the lungs are clear of opacities", "lungs are clear of focal opacity"),
}
NORMAL = (
    "no acute cardiopulmonary process", "no acute cardiopulmonary abnormality", "normal chest "
                                                                                "radiograph",
    "no acute intrathoracic process", "clear lungs", "unremarkable chest",
)  # fmt: skip
REMARKS = (
    "no significant change compared to ___", "compared to the prior study of ___, the "
                                             "appearance is similar",
    "degenerative changes of the thoracic spine", "low lung volumes", "the patient is rotated",
    "follow up radiographs can be obtained as clinically indicated", "findings were discussed "
                                                                     "with dr. ___",
    "the osseous structures are otherwise unremarkable", "the upper abdomen is unremarkable",
)  # fmt: skip
REASONS = (
    "dyspnea",
    "chest pain",
    "fever and cough",
    "hypoxia",
    "status post fall",
    "shortness of breath",
    "line placement",
)


def describe(f: Finding, rng: np.random.Generator, uncertain: bool) -> str:
    """One sentence (no full stop) about a planted finding."""
    if uncertain and f.name in NAMES:
        noun = pick(rng, NAMES[f.name])
        if f.name not in ("Cardiomegaly", "Edema"):
            noun = f"{pick(rng, SIDE[f.side])} {noun}"
        return pick(rng, UNCERTAIN).format(noun)
    grade, templates = POSITIVE[f.name]
    side = pick(rng, SIDE[f.side])
    variant = pick(
        rng, VARIANT.get(f"{f.side} {f.variant}") or VARIANT.get(f.variant, (f.variant,))
    )
    if f.name == "Support Devices":
        variant = pick(rng, DEVICE[f.variant]).format(s=side)
    elif f.variant == "rib":
        variant = pick(rng, RIB[f.zone])
    words = pick(rng, GRADE[grade][f.extent])
    lobe, zone = pick(rng, LOBE[f.zone]), pick(rng, ZONE[f.zone])
    while True:
        phrase = pick(rng, templates).format(
            s=side, g=words, w=LUNG[f.side], l=lobe, z=zone, v=variant
        )
        sentence = pick(rng, STATED).format(phrase)
        if sentence not in FORBIDDEN:
            return sentence


def negate(absent: list[str], rng: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
    """`count` sentences that rule out absent findings; returns the sentences and the findings they
    name.
    """
    order = [str(n) for n in rng.permutation(absent)]
    sentences, named = [], []
    while order and len(sentences) < count:
        first = order.pop()
        if first in NORMAL_OF and rng.random() < 0.35:
            sentences.append(pick(rng, NORMAL_OF[first]))
            named.append(first)
        elif order and rng.random() < 0.45:
            second = order.pop()
            nouns = [pick(rng, NAMES[n]) for n in (first, second)]
            sentences.append(pick(rng, NEGATIVE_PAIR).format(*nouns))
            named += [first, second]
        else:
            sentences.append(pick(rng, NEGATIVE).format(pick(rng, NAMES[first])))
            named.append(first)
    return sentences, named


def write_report(
    findings: list[Finding], view: str, rng: np.random.Generator
) -> tuple[str, dict[str, int]]:
    """Report text in MIMIC-CXR's form and its mention labels {finding: 1, 0 or -1}; what is not
    named has no label.
    """
    parts, labels = write_parts(findings, rng)
    text = (
        " " * 33 + "FINAL REPORT\n"
        f" EXAMINATION:  CHEST ({'PORTABLE AP' if view == 'AP' else 'PA AND LAT'})\n\n"
        f" INDICATION:  {parts['indication']}\n\n"
        f" COMPARISON:  {parts['comparison']}\n\n"
        f" FINDINGS:\n\n {parts['findings']}\n\n"
        f" IMPRESSION:\n\n {parts['impression']}\n"
    )
    return text, labels


def write_parts(
    findings: list[Finding], rng: np.random.Generator
) -> tuple[dict[str, str], dict[str, int]]:
    """The text of indication, comparison, findings and impression, and the mention labels."""
    labels, positive = {}, []
    for f in findings:
        doubt = f.name in NAMES and rng.random() < 0.05
        labels[f.name] = -1 if doubt else 1
        positive.append((f, doubt))
    absent = [
        n for n in NAMES if n not in labels and not (n == "Lung Opacity" and OPAQUE & labels.keys())
    ]
    impression = [describe(f, rng, doubt) for f, doubt in positive]
    if not [f for f in findings if f.name != "Support Devices"]:
        labels["No Finding"] = 1
        if rng.random() < 0.75:
            impression.append(pick(rng, NORMAL))
    ruled_out, named = negate(
        absent, rng, int(1 if not impression else rng.choice([0, 1], p=[0.75, 0.25]))
    )
    impression = [str(s) for s in rng.permutation(impression + ruled_out)]
    if rng.random() < 0.08:
        impression.append(pick(rng, REMARKS))

    more, also = negate([n for n in absent if n not in named], rng, int(rng.integers(0, 3)))
    body = [describe(f, rng, doubt) for f, doubt in positive] + more
    body += [str(s) for s in rng.choice(REMARKS, int(rng.integers(1, 3)), replace=False)]
    body = [str(s) for s in rng.permutation(body)]
    labels |= dict.fromkeys(named + also, 0)

    age = "___ year old " + pick(rng, ("man", "woman"))
    prior = "Chest radiograph ___" if rng.random() < 0.5 else "None"
    return {
        "indication": f"{age} with {pick(rng, REASONS)}",
        "comparison": f"{prior}.",
        "findings": prose(body),
        "impression": prose(impression),
    }, labels


def prose(sentences: list[str]) -> str:
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences)
