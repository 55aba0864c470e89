"""Findings and impression of reports in many spellings."""

import pytest

from data_prep.reports import sections

F, G = "The lungs are clear.", "No acute process."
SPELLINGS = {
    "usual": f"FINDINGS:  {F}\n\nIMPRESSION:\n{G}",
    "lower case": f"Findings:\n {F}\nImpression: {G}",
    "no colon": f"FINDINGS\n{F}\n\nIMPRESSION\n\n{G}",
    "dash": f"FINDINGS - {F}\nIMPRESSION -- {G}",
    "one line": f"EXAM: Chest. INDICATION: cough. FINDINGS: {F} IMPRESSION: {G}",
    "Windows": f"FINDINGS:\r\n{F}\r\n\r\nIMPRESSION:\r\n{G}\r\n",
    "misspelt": f"FINDIGNS: {F}\nIMPRESSON: {G}",
    "more misspelt": f"INDINGS: {F}\nIMRPESSION: {G}",
    "singular": f"FINDING: {F}\nIMPRESSIONS: {G}",
    "conclusion": f"CHEST FINDINGS: {F}\nCONCLUSION: {G}",
    "final impression": f"RADIOGRAPHIC FINDINGS: {F}\nFINAL IMPRESSION: {G}",
    "markdown": f"**FINDINGS:** {F}\n\n## IMPRESSION: {G}",
    "more markdown": f"**Findings**: {F}\n\n**Impression**\n{G}",
    "other order": f"IMPRESSION: {G}\n\nCOMPARISON: None.\n\nFINDINGS: {F}",
    "followed by others": f"FINDINGS: {F}\nIMPRESSION: {G}\nRECOMMENDATION(S): "
    "CT.\nNOTIFICATION: Dr. ___ at 3 pm.",
    "wet read": f"WET READ: ___ 4:10 AM\n Pneumonia.\n\n FINAL REPORT\n FINDINGS: {F}\n "
    f"IMPRESSION: {G}",
    "addendum": f"FINDINGS: {F}\n IMPRESSION: {G}\n\n ADDENDUM: Pneumonia after all.",
    "signature": f"FINDINGS: {F}\nIMPRESSION: {G}\n\nElectronically signed by: someone",
    "blank in the middle": "FINDINGS: The lungs ___ are clear.\nIMPRESSION: No acute ___\n "
    "process.",
    "rule": f"______________\nFINDINGS: {F}\n______________\nIMPRESSION: {G}",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_sections_of_many_spellings(name):
    assert sections.sections(SPELLINGS[name]) == {"findings": F, "impression": G}


@pytest.mark.parametrize(
    "text, findings, impression",
    [
        (
            "FINDINGS:\nLUNGS: Clear.\nHEART: Normal.\nIMPRESSION: Fine.",
            "LUNGS: Clear. HEART: Normal.",
            "Fine.",
        ),
        ("FINDINGS: Clear.\nOther findings: none here.", "Clear. Other findings: none here.", ""),
        (
            "IMPRESSION: AP chest compared to ___:\n\n 1. Clear.\n 2. No fracture.",
            "",
            "AP chest compared to: 1. Clear. 2. No fracture.",
        ),
        ("FINDINGS AND IMPRESSION: Clear.", "", "Clear."),
        ("FINDINGS/IMPRESSION:\n Clear.", "", "Clear."),
        ("IMPRESSION: A.\nFINDINGS: B.\nIMPRESSION: C.", "B.", "A. C."),
        (
            "REASON FOR EXAM: cough.\n\nPORTABLE CHEST: one view.\n\nThe lungs are clear.",
            "",
            "The lungs are clear.",
        ),
        (
            "PORTABLE AP CHEST: The lungs are clear.\n\nDictated by someone",
            "",
            "The lungs are clear.",
        ),
        ("The lungs are clear.", "", "The lungs are clear."),
        ("INDICATION: Cough and fever.\n\nCOMPARISON: None.", "", ""),
        ("FINDINGS: ___\nIMPRESSION: ___.", "", ""),
        ("HISTORY: compression of L1.\nCOMPRESSION: old.\nFINDINGS: B.", "B.", ""),
        ("", "", ""),
    ],
)
def test_sections_of_unusual_reports(text, findings, impression):
    assert sections.sections(text) == {"findings": findings, "impression": impression}
