"""Report text: cleaning, sentences, the WordPiece tokenizer, masking, and the prompts of zero-shot scoring."""

import re

import torch
from torch import Tensor

from . import compat  # noqa: F401  (before transformers)

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402  isort: skip
from transformers import PreTrainedTokenizerFast  # noqa: E402  isort: skip

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0-4, as in CXR-BERT
_DROPPED = re.compile(r"[,'!?\"()*#:;~]")
_BLANKS = re.compile(r"\s{2,}")
_FULL_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")  # not the one in "1.5 cm", which the release splits

# Zero-shot prompts of the released code: five positive sentences a finding, one negative.
PROMPTS = {
    "Atelectasis": ("platelike opacity likely represents atelectasis.", "geometric opacity likely represents atelectasis.",
                    "atelectasis is present.", "basilar opacity and volume loss is likely due to atelectasis.",
                    "patchy atelectasis is seen."),
    "Cardiomegaly": ("the heart is mildly enlarged.", "cardiomegaly is present.", "the heart shadow is enlarged.",
                     "the cardiac silhouette is enlarged.", "cardiac enlargement is seen."),
    "Consolidation": ("focal consolidation is present.", "findings suggesting pulmonary consolidation.",
                      "opacity of aerated portion of lobe suggests consolidation.", "lobar consolidation is present.",
                      "fairly homogeneous opacities suggest lobar consolidation"),
    "Edema": ("mild interstitial pulmonary edema is present.",
              "the presence of hazy opacity suggests interstitial pulmonary edema.", "moderate alveolar edema is present.",
              "mild diffuse opacity likely represents pulmonary edema.", "cardiogenic edema likely is present."),
    "Fracture": ("an angulated fracture is present.", "an oblique radiolucent line suggests a fracture.",
                 "a cortical step off indicates the presence of a fracture.",
                 "a comminuted displaced fracture is present.", "a fracture is present."),
    "Pleural Effusion": ("a pleural effusion is present.", "blunting of the costophrenic angles represents pleural effusions.",
                         "trace pleural fluid is present.", "the pleural space is partially filled with fluid.",
                         "layering pleural effusions are present."),
    "Pneumonia": ("a consolidation at the base likely represents pneumonia.", "pneumonia is present.",
                  "the presence of air bronchograms suggest pneumonia.", "a fluffy opacity suggests pneumonia.",
                  "a pulmonary opacity with ill defined borders likely represents pneumonia."),
    "Pneumothorax": ("an apical pneumothorax is present.", "a basilar pneumothorax is seen.",
                     "a medial pneumothorax is present adjacent to the heart.",
                     "a lateral pleural line suggests pneumothorax.", "pleural air is present."),
}  # fmt: skip
FINDINGS = tuple(PROMPTS)
FIVE_PATHOLOGIES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# The unseen disease is described by what it looks like; the release's own five sentences are not public in print, so
# these follow the description in the paper (bilateral, peripheral, ground-glass).
UNSEEN_PROMPTS = {
    "COVID-19": ("bilateral peripheral ground-glass opacities are present.", "bilateral peripheral opacity.",
                 "ground-glass opacity in both lower lungs.", "multifocal bilateral hazy opacity is seen.",
                 "patchy peripheral opacities in the bilateral lower lobes."),
}  # fmt: skip


def negative_prompt(finding: str) -> str:
    """ "No <finding>.", the one negative sentence of each finding."""
    return f"no {finding.lower()}."


def clean_report(text: str, max_words: int = 120) -> str:
    """Report text as the models read it: lower case, punctuation but the full stop dropped, first `max_words` words."""
    text = _DROPPED.sub("", text.lower()).replace("/", " ")
    text = _BLANKS.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def sentences(text: str) -> list[str]:
    """Sentences of a cleaned report; pieces under three characters are left out. May be empty."""
    return [s for s in (piece.strip() for piece in _FULL_STOP.split(text)) if len(s) >= 3]


def join(parts: list[str]) -> str:
    return ". ".join(parts) + "."


def train_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """WordPiece of at most `size` tokens learned from `texts`: the offline stand-in for CXR-BERT's vocabulary."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted("abcdefghijklmnopqrstuvwxyz0123456789.-")  # any word can be spelt, whatever the corpus lacks
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False, min_frequency=2
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _wrap(core)


def load_tokenizer(path) -> PreTrainedTokenizerFast:
    return _wrap(Tokenizer.from_file(str(path)))


def _wrap(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def encode(tokenizer, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, L) int64, padded to the longest of the batch."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def mask_tokens(ids: Tensor, vocabulary: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask `share` of the tokens, never [PAD], [CLS] or [SEP]: 80 % [MASK], 10 % random, 10 % kept.

    Returns the masked ids and the labels, both (B, L); labels are -100 where nothing is to be predicted.
    """
    mask_id, first_word = SPECIAL.index("[MASK]"), len(SPECIAL)
    chance = torch.rand(ids.shape, generator=generator)
    how = torch.rand(ids.shape, generator=generator)
    words = torch.randint(first_word, vocabulary, ids.shape, generator=generator)
    chosen = (chance < share) & ((ids >= first_word) | (ids == SPECIAL.index("[UNK]")))
    masked = torch.where(chosen & (how < 0.8), mask_id, ids)
    masked = torch.where(chosen & (how >= 0.8) & (how < 0.9), words, masked)
    return masked, torch.where(chosen, ids, -100)
