"""Search for a text word by word: greedy and beam, over any model that says how likely each next
word is.

A `step(state, words)` takes what was decoded last, (N,) ids (None at first), and gives
(log-probabilities (N, V), new state); a state offers `select(rows)`. So the search knows nothing of
the model behind it: MedViLL's is in medxvl.medvill.writer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -10000.0  # what the release adds to a score that is not to be chosen


@dataclass(frozen=True)
class Rules:
    """What a text may be: at most `most` words, of which `stop` ends it; not before `least` words;
    no run of `ngram` words twice (0: may).

    How texts of different length compare: `length_penalty` is added to the score for each word
    (MedViLL's release); the sum of log-probabilities is divided by ((5 + words) / 6) **
    `length_power` (X-VL's, after Wu et al. 2016, arXiv 1609.08144). `stopped_go_on`: a beam that
    has stopped is gone on with unless it is the best one, which ends the search; X-VL's release.
    """

    stop: int
    most: int
    beams: int = 1
    length_penalty: float = 0.0
    least: int = 0
    ngram: int = 0
    length_power: float = 0.0
    stopped_go_on: bool = False

    def score(self, totals: Tensor, words: int) -> Tensor:
        """What texts of `words` words, whose log-probabilities add up to `totals`, are compared
        by.
        """
        return (totals + self.length_penalty * words) / ((5 + words) / 6) ** self.length_power


@dataclass
class Texts:
    """`words` (N, most) ids with `stop` behind the last word and `pad` after it; `scores` (N,)."""

    words: Tensor
    scores: Tensor


@torch.no_grad()
def greedy(step, state, n: int, rules: Rules, pad: int = 0) -> Texts:
    """The likeliest word each time. A text that has stopped leaves the batch."""
    words = torch.full((n, rules.most), pad)
    totals, scores, left, last = torch.zeros(n), torch.zeros(n), torch.arange(n), None
    for k in range(rules.most):
        log_p, state = step(state, last)
        log_p = _forbid(log_p, words[left, :k], k, rules)
        best = log_p.max(dim=1)
        last = best.indices
        words[left, k] = last.cpu()
        totals[left] += best.values.float().cpu()
        scores[left] = rules.score(totals[left], k + 1)
        going = (last != rules.stop).nonzero().flatten()
        if len(going) < len(left):
            left, last = left[going.cpu()], last[going]
            state = state.select(going)
        if not len(left):
            break
    return Texts(words, scores)


@torch.no_grad()
def beam(step, state, n: int, rules: Rules, pad: int = 0) -> Texts:
    """Beam search with `rules.beams` beams a text, all texts at once, as in the releases (MedViLL's
    is its UniLM ancestor's).

    A beam that stopped is scored and not gone on with; the best of those that stopped, and of what
    is alive after `most` words, is the text. Without a length penalty a text is done once no living
    beam can catch up; that changes nothing but the time.
    """
    width, device = rules.beams, None
    best_score, best_words = torch.full((n,), -torch.inf), torch.full((n, rules.most), pad)
    rows, words, totals, stopped, last = torch.arange(n), None, None, None, None
    for k in range(rules.most):
        log_p, state = step(state, last)
        device = log_p.device
        if words is None:
            log_p = _forbid(log_p, torch.empty(n, 0, dtype=torch.long), 0, rules)
            totals, ids = log_p.topk(width, dim=1)
            parents = torch.zeros_like(ids)
            words = ids[:, :, None]
            state = state.select(torch.arange(n, device=device).repeat_interleave(width))
        else:
            log_p = _forbid(log_p, words.flatten(0, 1), k, rules).unflatten(0, (-1, width))
            top, ids = log_p.topk(width, dim=2)  # (n, beams, beams)
            top = top + totals[:, :, None]
            if not rules.stopped_go_on:
                top = top + NEVER * stopped[:, :, None]
            totals, at = top.flatten(1).topk(width, dim=1)
            parents, ids = at // width, ids.flatten(1).gather(1, at)
            words = torch.cat(
                [words.gather(1, parents[:, :, None].expand(-1, -1, k)), ids[:, :, None]], dim=2
            )
            offset = torch.arange(len(ids), device=device)[:, None] * width
            state = state.select((offset + parents).flatten())
        stopped = (ids == rules.stop).float()
        over = k + 1 == rules.most
        ends = (
            torch.ones_like(stopped, dtype=torch.bool)
            if over
            else (stopped > 0) | stopped.bool().all(dim=1, keepdim=True)
        )
        scored = rules.score(totals, k + 1).masked_fill(~ends, -torch.inf)
        score, which = scored.max(dim=1)
        better = (score.cpu() > best_score[rows]).nonzero().flatten()
        if len(better):
            chosen = words[better.to(device), which[better.to(device)]].cpu()
            best_score[rows[better]] = score.cpu()[better]
            best_words[rows[better]] = pad
            best_words[rows[better], : k + 1] = chosen
        done = stopped.bool().all(dim=1)
        if rules.stopped_go_on:
            done = stopped[:, 0] > 0
        elif (
            not rules.length_penalty
        ):  # no text can end better than with all words allowed and none of them unlikely
            alive = rules.score(totals.masked_fill(stopped > 0, -torch.inf).amax(dim=1), rules.most)
            done = done | (alive <= best_score[rows].to(device))
        going = (~done).nonzero().flatten()
        last = ids.flatten()
        if len(going) < len(rows):
            keep = (going[:, None] * width + torch.arange(width, device=device)).flatten()
            rows, words, totals, stopped = (
                rows[going.cpu()],
                words[going],
                totals[going],
                stopped[going],
            )
            state, last = state.select(keep), last[keep]
        if not len(rows):
            break
    return Texts(best_words, best_score)


def _forbid(log_p: Tensor, words: Tensor, k: int, rules: Rules) -> Tensor:
    """`log_p` (N, V) with the words that `rules` do not allow after `words` (N, k) made
    unlikely.
    """
    if k + 1 <= rules.least:
        log_p = log_p.clone()
        log_p[:, rules.stop] = NEVER
    if rules.ngram and k >= rules.ngram:
        seen = words.unfold(1, rules.ngram, 1)  # (N, runs, ngram)
        begun = (seen[:, :, :-1] == words[:, None, k - rules.ngram + 1 :]).all(dim=2)
        again = torch.zeros_like(log_p).scatter_reduce(
            1, seen[:, :, -1].to(log_p.device), begun.to(log_p), "amax"
        )
        log_p = log_p + NEVER * again
    return log_p


def to_texts(tokenizer, words: Tensor) -> list[str]:
    """Ids (N, T) to texts, each up to its first stop word, WordPiece's pieces of a word put
    together.
    """
    stop = tokenizer.sep_token_id
    rows = [row[: row.index(stop)] if stop in row else row for row in words.tolist()]
    return [
        found.replace(" ##", "") for found in tokenizer.batch_decode(rows, skip_special_tokens=True)
    ]
