"""Report text: cleaning, sentences, the WordPiece tokenizer, and masking."""

import re
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0-4, as in CXR-BERT
NAMED = {
    f"{name}_token": word
    for name, word in zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True)
}
_DROPPED = re.compile(r"[,'!?\"()*#:;~]")
_DROPPED_OF_QUESTION = re.compile(r"[,'!\"()*#:;~]")
_SYNONYMS = {
    "pa": "posterior anterior",
    "x ray": "x-ray",
    "xray": "x-ray",
    "xr": "x-ray",
    "plain film": "x-ray",
    "plain film x ray": "x-ray",
    "t2 mri": "t2 weighted",
    "t2 weighted mri": "t2 weighted",
    "mr flair": "flair",
    "ct with contrast": "ct",
    "axial plane": "axial",
}
_BLANKS = re.compile(r"\s{2,}")
_FULL_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")  # not the one in "1.5 cm", which the release splits


def clean_report(text: str, max_words: int = 120) -> str:
    """Report text as the models read it: lower case, punctuation but the full stop dropped, first
    `max_words` words.
    """
    text = (
        _DROPPED.sub("", text.lower())
        .replace("/", " ")
        .replace("[sep]", "[SEP]")
        .replace("<person>", "person")
    )
    text = _BLANKS.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def clean_question(text: str, max_words: int = 50) -> str:
    """A question as the models read it: as a report, but hyphens become blanks and question marks
    stay.
    """
    text = (
        _DROPPED_OF_QUESTION.sub("", text.lower()).replace("-", " ").replace("/", " ").rstrip(" ")
    )
    return " ".join(text.split(" ")[:max_words])


def unify_answer(answer: str) -> str:
    """One wording for answers that mean the same (released code, VQA-RAD)."""
    return _SYNONYMS.get(answer, answer)


def sentences(text: str) -> list[str]:
    """Sentences of a cleaned report; pieces under three characters are left out. May be empty."""
    return [s for s in (piece.strip() for piece in _FULL_STOP.split(text)) if len(s) >= 3]


def join(parts: list[str]) -> str:
    return ". ".join(parts) + "."


def train_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """WordPiece of at most `size` tokens learned from `texts`: the offline stand-in for CXR-BERT's
    vocabulary.
    """
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    seen = set().union(*(core.normalizer.normalize_str(t) for t in texts)) - {" "}
    letters = sorted(
        seen | set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    )  # any word can be spelt, whatever the corpus lacks
    # The inner pieces get their ids before training: left to the trainer they come in hash order,
    # another in each process.
    inner = ["##" + letter for letter in letters]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=SPECIAL + inner,
        initial_alphabet=letters,
        show_progress=False,
        min_frequency=2,
    )
    core.train_from_iterator(texts, trainer)
    return _bert(core.get_vocab())


def vocabulary(
    folder: Path, weights: Path | None, texts: list[str], size: int, special_first: bool = True
) -> PreTrainedTokenizerFast:
    """The tokenizer of a text encoder: that of the released `weights` it starts from, whose
    vocab.txt lies beside them (`read_vocabulary`), else one of `size` tokens learned from `texts`.
    Kept in `folder`/tokenizer.json.
    """
    if weights:
        beside = weights if weights.is_dir() else weights.parent
        tokenizer = read_vocabulary(beside / "vocab.txt", special_first)
    else:
        tokenizer = train_tokenizer([text for text in texts if text], size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def read_vocabulary(path, special_first: bool = True) -> PreTrainedTokenizerFast:
    """The tokenizer of a released BERT from its vocab.txt, a token a line.

    Raises FileNotFoundError, and ValueError where the special tokens are not the first five, as
    `mask_tokens` expects; with `special_first` False (bert-base-uncased has them further down)
    where one is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the vocabulary of the text encoder's weights beside them"
        )
    words = path.read_text(encoding="utf-8").split("\n")
    if missing := [word for word in SPECIAL if word not in words]:
        raise ValueError(
            f"{path}: expected {', '.join(SPECIAL)} among its words, found no {', '.join(missing)}"
        )
    if special_first and words[: len(SPECIAL)] != SPECIAL:
        raise ValueError(
            f"{path}: expected to begin with {', '.join(SPECIAL)}, found "
            f"{', '.join(words[: len(SPECIAL)])}"
        )
    return _bert({word: k for k, word in enumerate(words) if word})


def _bert(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens(SPECIAL)
    sep, cls = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    core.post_processor = processors.BertProcessing(sep, cls)
    return PreTrainedTokenizerFast(tokenizer_object=core, **NAMED)


def load_tokenizer(path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(path)), **NAMED)


def encode(tokenizer, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, L) int64, padded to the longest of the batch."""
    batch = tokenizer(
        texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]


def mask_tokens(
    ids: Tensor, vocabulary: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mask `share` of the tokens, never [PAD], [CLS] or [SEP]: 80 % [MASK], 10 % random, 10 % kept.

    Returns the masked ids and the labels, both (B, L); labels are -100 where nothing is to be
    predicted.
    """
    mask_id, first_word = SPECIAL.index("[MASK]"), len(SPECIAL)
    chance = torch.rand(ids.shape, generator=generator)
    how = torch.rand(ids.shape, generator=generator)
    words = torch.randint(first_word, vocabulary, ids.shape, generator=generator)
    chosen = (chance < share) & ((ids >= first_word) | (ids == SPECIAL.index("[UNK]")))
    masked = torch.where(chosen & (how < 0.8), mask_id, ids)
    masked = torch.where(chosen & (how >= 0.8) & (how < 0.9), words, masked)
    return masked, torch.where(chosen, ids, -100)
