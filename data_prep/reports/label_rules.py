"""Words of the report labeller: what names a finding, and what negates it, doubts it or ends such a
statement.

Patterns are for lower-case text. Where two fit at the same place the first wins. They come from how
radiographs are described and from the errors on half of the Open-I reports;
tests/benchmarks/labels.py scores both halves.
"""

import re


def words(*patterns: str) -> str:
    return "(?:" + "|".join(patterns) + ")"


BLANK = r"\b(?:x{2,}|_{2,})\b"  # what de-identification leaves

# ---------------------------------------------------------------- findings that a noun names
# Substrings of a phrase count too ("nodular opacity" is a lesion and an opacity): a look-ahead
# leaves the second word.

_JOINTS = "joint knee elbow ankle shoulder hip wrist".split()
_LUNG = r"(?:pulmonary|lung|lobar|lobe|parenchymal)"
FINDINGS = {
    "Atelectasis": words(
        r"at[ae]?l+e?c?k?t[aei]\w*",
        rf"(?:{_LUNG}|segmental) collapse",
        r"collapsed? (?:of )?(?:\w+ ){0,4}(?:lung|lobe)",
        r"(?:lungs?|lobes?) "
        r"(?:(?:is|are|was|has|have|remains?|appears?|now|again|still|"
        r"partially|completely|largely) )*"
        r"collapsed\b",
    ),
    "Pneumothorax": words(r"(?:hydro|ha?emo)?-?p?neumo-?thor[ao]\w*", r"pneumothroax", r"ptx\b"),
    "Pleural Effusion": words(
        "".join(
            rf"(?<!{place} )"
            for place in ("pericardial", "suprapatellar", "glenohumeral", "ear", *_JOINTS)
        )
        + rf"ef+us+ions?\b(?! (?:of|in) the (?:\w+ )?{words(*_JOINTS)})",
        r"pleural (?=(?:or|and|nor|and/or) pericardial ef+us)",
        r"(?:hydro|ha?emo)thorax",
        r"empyemas?\b",
        r"pleural (?:fluid|collection)\w*",
        r"pleural fusions?\b",
        r"fluid in the (?:\w+ )?pleural?\b",
    ),
    "Pneumonia": words(
        r"(?:broncho-?)?pn[eu]+monia\w*",
        r"pneumonitis",
        r"infectio(?:n|us)\b(?<!granulomatous infection)(?<!fungal "
        r"infection)(?<!histoplasmosis infection)"
        r"(?<!osseous infection)",
    ),
    "Consolidation": r"consolid\w+",
    "Edema": words(
        r"(?<!subglottic )(?<!tissue )(?<!subcutaneous )o?edema\w*",
        r"(?:heart|cardiac|congestive|ventricular) (?:failure|decompensation)",
        r"chf\b",
        r"(?:fluid|volume) overload\w*",
        r"kerley\w*",
    ),
    "Pleural Other": words(
        r"pleura\w*[- /]+(?:parenchymal )?(?:based )?(?:thickening|plaques?|scar\w*|fibros\w+)",
        r"thickening of the (?:\w+ ){0,2}pleura\b",
        r"fibrothorax",
        r"apical thickening",
    ),
    "Fracture": words(r"fractur\w+", r"fxs?\b"),
    "Lung Lesion": words(
        r"nodules?\b|nodularit\w+|nodular (?:densit\w+|lesions?|foc(?:us|i))|nodular(?= opac)",
        r"mass(?:es|-?like)?\b(?! effect)",
        r"(?:cavitary|lung|pulmonary|parenchymal) lesions?\b",
        r"neoplas\w+",
        r"tumou?rs?\b",
        r"(?:adeno)?carcinoma\w*",
        r"(?:lung|pulmonary|bronchogenic|bronchial) (?:cancers?|malignanc\w+)",
        "".join(
            rf"(?<!{place} )"
            for place in "osseous bone bony spinal skeletal liver hepatic brain".split()
        )
        + r"metasta(?:s[ei]s|tic (?:disease|lesions?|deposits?|foc(?:us|i)))",
    ),
    "Lung Opacity": words(
        r"opac(?:i|t)\w+",
        r"scar(?:s|red|ring)?\b",
        r"infiltra\w+",
        r"air ?-?space (?:disease|process|abnormalit|densit)\w*",
        r"interstitial (?:lung )?(?:marking|prominen|disease|pattern|abnormalit|process|change)\w*",
    ),
    "Support Devices": words(
        r"catheters?\b",
        r"tubes?\b",
        r"tracheostom\w+|trach\b",
        r"ett\b|[no]gt\b|dob+-? ?hoff\w*",
        r"ecmo\b|(?<!nasal )cannula[es]?\b|iabp\b|balloon pumps?|lvad\b|impella\w*|pigtails?\b",
        r"picc?\b(?: line)?",
        r"(?:central|venous|jugular|ij|subclavian|arterial|support|access|infusion) lines?\b",
        r"lines? and tubes?",
        r"pace ?-?makers?\b",
        r"pacers?\b",
        r"aicd\b|icd\b",
        r"defibrillator\w*",
        r"mediports?\b|port-?a-?cath\w*|infus-?a-?ports?\b|ports?\b(?! "
        r"(?:films?|views?|chest|cxr|ap|exams?|supine)\b)",
        r"(?:prosthetic|mechanical|artificial) valves?",
        r"valves? (?:replacement|prosthes\w+)",
        r"devices?\b",
        r"stents?\b",
        r"hardware\b|screws?\b|plates?\b(?!-?like)",
        r"swan-? ?ganz",
        r"drains?\b",
    ),
    "Cardiomegaly": r"cardiomeg\w+",
    "Enlarged Cardiomediastinum": r"cardiomediastinal enlargement",
}

# ---------------------------------------------------------------- findings that an organ and its st

_HEART_OTHERWISE = (
    "border failure decompensation disease valve surg transplant margin "
    "monitor device apex lead pac x+"
)
HEART = (
    words(r"(?:cardiac|heart)(?: (?:size|silhouettes?|contours?|shadow))?\b")
    + rf"(?! {words(*_HEART_OTHERWISE.split())})"
)
MEDIASTINUM = words(
    r"(?:cardio-? ?)?mediast\w+(?: (?:contours?|silhouettes?|size|structures?|configuration))?"
)
ENLARGED = words(
    r"enlarge\w*",
    r"(?:large|big)\b(?! (?:amount|body))",
    r"promin\w+",
    r"widen\w*",
    r"dilat\w+",
    r"increased in size",
    r"borderline",
)
NORMAL = words(
    r"(?:upper|top|high)[- ](?:limits? )?(?:of )?(?:the )?normal(?: limits?)?",
    r"normal\w*",
    r"unremarkable",
    r"(?:non-? ?|un)enlarged",
    r"within (?:the )?limits",
)
# What may stand between an organ and its state: "heart size and pulmonary vascularity are within
# ... normal".
_LINK = (
    "the a an is are was were be been being and or of in at to for size sizes contour "
    "contours silhouette silhouettes shadow "
    "configuration appearance position appear appears appearing remain remains remained again "
    "seem seems not significantly "
    "grossly overall mildly moderately markedly severely slightly somewhat minimally mild "
    "moderate marked severe slight minimal "
    "probably probable possible possibly likely top both also otherwise stable unchanged "
    "similar still persistently "
    "within upper superior hilar hilum hila pulmonary vascularity vasculature vascular "
    "vessels vessel engorgement markings "
    "pattern lungs lung aorta aortic trachea heart cardiac mediastinal mediastinum "
    "cardiomediastinal structures bony osseous "
    "x+ _+ frontal well central"
).split()
LINK = re.compile(rf"(?:[\s,:/'-]|{words(*_LINK)}(?![a-z]))*")
NEAR = re.compile(
    r"(?:\s|-|(?:of|the|in|size|upper|superior|overall|appearing|appearance|sized?)(?![a-z]))*"
)

# ---------------------------------------------------------------- what is said about a finding

SEEN = words(
    *"seen identified visuali[sz]ed appreciated present evident noted demonstrated detected "
    "observed found apparent "
    "suspected visible shown".split()
)
_FEW = r"(?:\w+[ -]){0,3}?"  # adverbs and adjectives inside a cue
_NOT = r"(?:not|cannot|can ?not|(?:can|could|do|does|did)n?'t)"
_THAN = r"(?:than|given|but|and|since|because|in|at)\b"
_BE = r"(?:is|are|was|were|has been|have been|has|have|had|appears?|seems?)"
CUES = [  # (kind, pattern): the first that fits wins
    (
        "none",
        words(  # looks like a negation or a doubt, and is none
            r"(?:no|not|without)(?: any)? "
            r"(?:(?:significant|interval|definite|appreciable|substantial|obvious|other|much|gross|"
            r"further|short|acute) )*(?:significantly |substantially |greatly |appreciably "
            r")?chang\w*",
            r"not (?:significantly |substantially "
            r")?(?:x{3,}|improved|worse\w*|increased|decreased)",
            r"no (?:significant )?(?:interval "
            r")?(?:increase|decrease|improvement|resolution|worsening|progression)",
            r"not only",
            r"(?:nearly|partial\w*|essentially|almost|incomplete\w*|near|mostly)(?: "
            r"complete\w*)?[ -](?:resol|clear)\w+(?: of)?",
        ),
    ),
    (
        "negation",
        words(  # these would be taken for what is said after a finding
            rf"(?:no longer|not) (?:\w+ )?{SEEN} (?:is|are|was|were)\b",
            r"(?:^ *(?:(?:now|interval|completely|fully) "
            r")*|(?:a|an|the|with|of|interval|completely|fully) )(?:resolved|cleared) "
            r"(?!(?:since|compared|from|in|on|with|and|or|as|at|after|"
            r"following|by|but)\b)(?=[a-z])",
        ),
    ),
    (
        "doubt",
        words(
            rf"(?:unlikely|improbable|not likely) (?:to\b(?! be (?:there|{SEEN}))|that\b|for\b)",
            r"^ *(?:(?:very|highly) )?(?:unlikely|doubtful|improbable)\b",
            rf"less likely(?= [a-z])(?! {_THAN})",
        ),
    ),
    (
        "doubt after",
        words(
            rf"(?:is |are |was |were )?{_NOT}(?: be)? (?:\w+ )?(?:excluded|ruled out)",
            r"(?:is|are|would be|should be|could be) (?:\w+ )?(?:consider\w*|a "
            r"(?:consideration|possibility)|possible|questioned|"
            r"suspected|questionable)",
            r"(?:is |are )?(?:difficult|hard|impossible) to (?:\w+ )?(?:exclude|rule out)",
            r"(?:should|must|needs? to) be (?:\w+ )?(?:excluded|ruled out)",
            r"(?:, ?)?(?:(?:is|are|was|were|seems?|appears?|remains?|felt|thought|"
            r"considered|deemed|to be|very|also|therefore) )*"
            r"(?:(?:less |more |highly )?unlikely|doubtful|doubted|improbable|not likely)\b"
            rf"(?! (?:that|for)\b)(?! to\b(?! be (?:there|{SEEN})))",
            rf"(?:(?:is|are) (?:\w+ )?)?less likely(?= {_THAN}|\s*(?:$|[^\sa-z]))",
            r"(?:(?:is|are|was|were) (?:\w+,? ){1,3})?(?:, ?)?if (?:any|present)\b",
            r"(?:(?:is|are|remains?|would be|should be) )?(?:(?:also|still|high|low) )*(?:up "
            r")?(?:in|on|within|included in|part of) "
            r"(?:the|our|my) (?:\w+ )?differential\b",
            r"\?\s*$",
            r"(?:may|might|could)(?: also| well)? be (?:present|there|seen|developing|evolving)\b",
        ),
    ),
    (
        "doubt",
        words(
            rf"(?:{_NOT}|unable to|difficult to|hard to|impossible to) {_FEW}(?:exclude|rule "
            r"out)\b",
            r"(?:may|might|could|can|would)(?: also| well| potentially)? "
            rf"{_FEW}(?:represent|reflect|be|suggest|indicat|relat|includ|"
            r"signify|correspond|account|contribut|have)\w*",
            r"(?:may|might|could)\b",
            r"possib\w+|questionabl\w+|question of|(?<![a-z])\?|query|equivocal|suspected|"
            r"suspicion (?:of|for)|suspicious for|concern\w* (?:for|of|about)|worrisome "
            r"for|potential\w*",
            r"(?<!no )(?<!without )doubt(?:s|ful)?\b|(?:little|scant|insufficient) (?:\w+ "
            r")?(?:evidence|suspicion|to suggest)",
            r"either\b|consider(?:ed|ing|ation)?\b|rule out|r/o|(?:to |please "
            r")?(?:evaluate|assess|exclude|correlate)(?: \w+)? for|"
            r"to exclude|to (?:evaluate|assess)|evaluation (?:for|of)",
        ),
    ),
    ("list of doubts", r"differential\w*"),
    ("past", r"history of|hx of|h/o|(?:known|prior|previous|remote) history"),
    # an answer negates its heading and what it names: "Pneumonia: no consolidation", but not "Line:
    # no pneumothorax"
    (
        "negation of both",
        r": ?no\b(?= [a-z])(?! (?:\w+ "
        r"){0,3}?(?:chang|increas|decreas|improv|worse|resol|progress|pneumothora))",
    ),
    (
        "negation after",
        words(
            r"(?:(?:is|are|was|were|has|have|had|been|be|being) )*(?:not|no longer|never) "
            rf"(?:been |be )?{_FEW}{SEEN}\b",
            rf"(?:is|are|was|were|has|have|had)n't (?:been |be )?{_FEW}{SEEN}\b",
            rf"(?:,? which )?(?:{_BE} )?(?:(?:now|all|completely|entirely|since|fully) )?"
            r"(?:absent\b|resolved\b|cleared\b|ruled out|excluded|removed|gone\b|disappeared\b)",
            r", ?(?:(?:now|since|completely|entirely|fully) "
            r")+(?:absent|resolved|cleared|removed|gone|disappeared)\b",
            r"[:=?-] ?(?:no(?=\s*(?:$|[.,)]))|none\b|nil\b|negative\b(?! for)|absent\b)",
        ),
    ),
    ("contrast", r"rather than|instead of|in place of|as opposed to"),
    (
        "negation",
        words(
            r"no\b(?! ?\.)|nothing\b|not\b|(?:is|are|was|were|has|have|had|do|does|did)n't|"
            r"without|w/o|negative|free of|"
            r"free from|free\b(?= (?:any|focal))|clear of|clear from|"
            r"absence of|absent|lack(?:s|ing)?(?: of)?|never|neither|nor\b|den(?:y|ies)|"
            r"(?:interval |complete )*(?:resolution|clearing|removal) of|(?:interval "
            r")?resolved|excludes?|rules out",
        ),
    ),
    (
        "end",
        words(
            r"(?:but|however|though|although|yet|whereas|while|aside from|apart from|other "
            r"than|besides|which|because|except|"
            r"excepting|with the exception)\b",
        ),
    ),
]
