"""The sentences of zero-shot scoring. Plain data: the phantom reads them too, to keep them out of
its reports.
"""

# Zero-shot prompts of the released code: five positive sentences a finding, one negative.
PROMPTS = {
    "Atelectasis": (
        "platelike opacity likely represents atelectasis.",
        "geometric opacity likely represents atelectasis.",
        "atelectasis is present.",
        "basilar opacity and volume loss is likely due to atelectasis.",
        "patchy atelectasis is seen.",
    ),
    "Cardiomegaly": (
        "the heart is mildly enlarged.",
        "cardiomegaly is present.",
        "the heart shadow is enlarged.",
        "the cardiac silhouette is enlarged.",
        "cardiac enlargement is seen.",
    ),
    "Consolidation": (
        "focal consolidation is present.",
        "findings suggesting pulmonary consolidation.",
        "opacity of aerated portion of lobe suggests consolidation.",
        "lobar consolidation is present.",
        "fairly homogeneous opacities suggest lobar consolidation",
    ),
    "Edema": (
        "mild interstitial pulmonary edema is present.",
        "the presence of hazy opacity suggests interstitial pulmonary edema.",
        "moderate alveolar edema is present.",
        "mild diffuse opacity likely represents pulmonary edema.",
        "cardiogenic edema likely is present.",
    ),
    "Fracture": (
        "an angulated fracture is present.",
        "an oblique radiolucent line suggests a fracture.",
        "a cortical step off indicates the presence of a fracture.",
        "a comminuted displaced fracture is present.",
        "a fracture is present.",
    ),
    "Pleural Effusion": (
        "a pleural effusion is present.",
        "blunting of the costophrenic angles represents pleural effusions.",
        "trace pleural fluid is present.",
        "the pleural space is partially filled with fluid.",
        "layering pleural effusions are present.",
    ),
    "Pneumonia": (
        "a consolidation at the base likely represents pneumonia.",
        "pneumonia is present.",
        "the presence of air bronchograms suggest pneumonia.",
        "a fluffy opacity suggests pneumonia.",
        "a pulmonary opacity with ill defined borders likely represents pneumonia.",
    ),
    "Pneumothorax": (
        "an apical pneumothorax is present.",
        "a basilar pneumothorax is seen.",
        "a medial pneumothorax is present adjacent to the heart.",
        "a lateral pleural line suggests pneumothorax.",
        "pleural air is present.",
    ),
}
FINDINGS = tuple(PROMPTS)
FIVE_PATHOLOGIES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# The unseen disease is described by how it looks, since its name occurs in no training report. The
# sentences of the release are not at hand: these follow the paper's description (bilateral,
# peripheral, ground-glass). The negative one keeps the rule "no <finding>.", with the CheXpert
# finding that covers this look: no report rules out an opacity of one place and texture.
UNSEEN_PROMPTS = {
    "COVID-19": ("bilateral peripheral ground-glass opacities are present.", "bilateral "
                                                                             "peripheral opacity.",
                 "ground-glass opacity in both lungs.", "multifocal bilateral hazy opacity is "
                                                        "seen.",
                 "patchy peripheral opacities in the bilateral lower lobes."),
}  # fmt: skip
UNSEEN_NEGATIVE = {"COVID-19": "no lung opacity."}


def negative_prompt(finding: str) -> str:
    """The one negative sentence of a finding: "no <finding>."; of an unseen disease, of the known
    finding that it looks like.
    """
    return UNSEEN_NEGATIVE.get(finding, f"no {finding.lower()}.")
