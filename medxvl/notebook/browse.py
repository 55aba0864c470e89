"""A few studies that may be shown, encoded once, and what the viewer asks of them: maps, checks of
a report, retrieval.
"""

import numpy as np
import torch

from medxvl.data import text
from medxvl.notebook import data_tables
from medxvl.xvl import corpus, word_maps


class Collection:
    """Studies of `dataset` that may be shown, at most `most` of the index rows `rows`.

    Attributes: rows (n,), views (n, S, S) uint8 as the encoder sees them, reports (n,) cleaned,
    titles (n,). Raises ValueError when none may be shown (see medxvl.notebook.data_tables).
    """

    def __init__(self, model, tokenizer, dataset, rows, show="open", most=60):
        rows = np.asarray(rows)
        kept = rows[data_tables.may_show(dataset, show)[rows]]
        parts = corpus.report_sentences(dataset, kept, model.preset)
        kept, parts = kept[[bool(p) for p in parts]][:most], [p for p in parts if p][:most]
        if not len(kept):
            raise ValueError(
                f"{dataset.label}: none of these studies may be shown (setting show={show}), "
                "or none has a report"
            )
        self.model, self.tokenizer, self.rows, self.label = (
            model.eval(),
            tokenizer,
            kept,
            dataset.label,
        )
        self.reports = [text.join(p) for p in parts]
        self.titles = [
            f"{number + 1}: study {study}"
            for number, study in enumerate(dataset.index["study_id"].iloc[kept])
        ]
        pixels = torch.from_numpy(dataset.images(kept))
        self.views = word_maps.views(pixels, model.preset)
        with torch.no_grad():
            self.tokens = word_maps.encode(model, pixels)
            self.f_image = torch.nn.functional.normalize(
                model.online.vision_proj(self.tokens[:, 0]), dim=-1
            )
            self.f_text = self._encode(self.reports)[2]

    def __len__(self) -> int:
        return len(self.rows)

    def _encode(self, texts):
        """States (n, L, d), mask (n, L), unit features (n, D)."""
        ids, mask = (
            t.to(self.tokens.device)
            for t in text.encode(self.tokenizer, texts, self.model.preset.max_tokens)
        )
        states, features = self.model.online.encode_text(ids, mask)
        return states, mask, features

    def maps(self, study: int, sentence: str) -> tuple[list[str], np.ndarray, float]:
        """Words of a sentence that were read, their maps (W, g, g) on the study's image, and the
        probability of a match.
        """
        made = word_maps.explain(self.model, self.tokenizer, self.tokens[[study]], [sentence])
        kept = made.covered[0].nonzero()[:, 0].tolist()
        words = [made.words[0][k] for k in kept]
        return words, made.maps[0, kept].cpu().numpy(), torch.sigmoid(made.logits[0]).item()

    def check(self, study: int, report: str) -> tuple[float, list[str], np.ndarray, list[str]]:
        """Probability of a match, words, and per word how far its log-odds rise without it (W,) and
        what the model offers instead.
        """
        logit, words, rises, offers = word_maps.suspicion(
            self.model, self.tokenizer, self.tokens[[study]], report
        )
        return float(1 / (1 + np.exp(-logit))), words, rises, offers

    @torch.no_grad()
    def find_images(
        self, sentence: str, most: int = 6, shortlist: int = 20
    ) -> tuple[np.ndarray, np.ndarray]:
        """Studies whose image fits a sentence best, and the log-odds of a match: a shortlist by
        cosine, reordered by the match.
        """
        cleaned = text.clean_report(sentence, self.model.preset.max_words)
        states, mask, feature = self._encode([cleaned])
        listed = (self.f_image @ feature[0]).topk(min(shortlist, len(self))).indices
        n = len(listed)
        return self._order(
            listed, states.expand(n, -1, -1), mask.expand(n, -1), self.tokens[listed], most
        )

    @torch.no_grad()
    def find_reports(
        self, study: int, most: int = 6, shortlist: int = 20
    ) -> tuple[np.ndarray, np.ndarray]:
        """Studies whose report fits an image best, likewise."""
        listed = (self.f_text @ self.f_image[study]).topk(min(shortlist, len(self))).indices
        states, mask, _ = self._encode([self.reports[k] for k in listed.tolist()])
        return self._order(
            listed, states, mask, self.tokens[[study]].expand(len(listed), -1, -1), most
        )

    def _order(self, listed, states, mask, tokens, most):
        logits = self.model.match_logits(states, mask, tokens)
        logits = logits[:, 1] - logits[:, 0]
        best = logits.argsort(descending=True, stable=True)[:most]
        return listed[best].cpu().numpy(), logits[best].cpu().numpy()
