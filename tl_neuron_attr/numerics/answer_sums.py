"""From scores of single tokens to the score of an answer (the chain rule), of several answers, of one against another.

The log-probability of an answer is the sum over its tokens, each scored at the position before it, so a unit's score is
the sum too. Of several right answers the log of their summed probability is followed:

    score = log sum_a P_a exp(s_a) - log sum_a P_a

with ``s_a`` the score of answer ``a`` and ``P_a`` its probability in the base streams. Answers of a contrast are
followed in the same way and taken off. All of it rises with the score of every token, and falls with that of every
token of a contrast: bounds of tokens give bounds of results.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class AnswerSums:
    """Which answer the token scored at each place belongs to, and which result each answer counts for.

    Places are ordered by answer and answers by result.

    Examples:
        >>> one_of_two_tokens = AnswerSums(torch.tensor([0, 0]), torch.tensor([0]), torch.tensor([1]))
        >>> one_of_two_tokens(torch.tensor([[0.5], [0.25]])).tolist()
        [[0.75]]

    Attributes:
        answer: The answer of each place.
        result: The result of each answer.
        sign: 1, or -1 for an answer of a contrast.
    """

    answer: Int[Tensor, "place"]
    result: Int[Tensor, "answer"]
    sign: Int[Tensor, "answer"]

    def __len__(self) -> int:
        return int(self.result[-1]) + 1

    @property
    def result_of_place(self) -> Int[Tensor, "place"]:
        """The result that each place counts for."""
        return self.result[self.answer]

    @property
    def sign_of_place(self) -> Int[Tensor, "place"]:
        """1, or -1 where the token belongs to a contrast."""
        return self.sign[self.answer]

    @property
    def additive(self) -> bool:
        """Whether results are sums over tokens: there is one answer on each side, not several."""
        return len(self._sides()[1]) == len(self.result)

    def __call__(
        self, scores: Float[Tensor, "place *n"], base: Float[Tensor, "place *m"] | None = None
    ) -> Float[Tensor, "result *n"]:
        """Return the scores of results.

        Args:
            scores: Each token's scores.
            base: Each token's log-probability in the base streams the scores start from, of the same shape or one that
                broadcasts; only where there are several answers.
        """
        by_answer = self._added(scores)
        if self.additive:
            signed = by_answer * self.sign.reshape(-1, *[1] * (scores.ndim - 1))
            return signed.new_zeros(len(self), *scores.shape[1:]).index_add(0, self.result, signed)
        assert base is not None, "the base streams' log-probabilities are missing"
        return self._of_several(by_answer.double(), self._added(base.double())).to(scores.dtype)

    def log_probs(self, tokens: Float[Tensor, "place *n"]) -> Float[Tensor, "result *n"]:
        """Return the log of the summed probability of each result's answers; of a contrast, the difference."""
        by_answer = self._added(tokens)
        of_answer, sides = self._sides()
        found = by_answer.new_zeros(len(self), *tokens.shape[1:])
        for i, side in enumerate(sides.tolist()):
            found[side // 2] += (-1 if side % 2 else 1) * by_answer[of_answer == i].logsumexp(0)
        return found

    def select(self, results: Int[Tensor, "n"]) -> tuple[Int[Tensor, "place"], "AnswerSums"]:
        """Return the places of some results, in ascending order, and how those add up."""
        answers = torch.isin(self.result, results).nonzero()[:, 0]
        places = torch.isin(self.answer, answers).nonzero()[:, 0]
        renumbered = self.result[answers].unique(return_inverse=True)[1]
        answer = self.answer[places].unique(return_inverse=True)[1]
        return places, AnswerSums(answer, renumbered, self.sign[answers])

    def _added(self, values: Tensor) -> Tensor:
        """Return values of tokens summed over each answer."""
        return values.new_zeros(len(self.result), *values.shape[1:]).index_add(0, self.answer, values)

    def _sides(self) -> tuple[Int[Tensor, "answer"], Int[Tensor, "side"]]:
        """Return the side of each answer, and the sides: twice the result, plus 1 for a contrast."""
        sides, of_answer = (2 * self.result + (self.sign < 0)).unique(return_inverse=True)
        return of_answer, sides

    def _of_several(
        self, scores: Float[Tensor, "answer *n"], log_probs: Float[Tensor, "answer *m"]
    ) -> Float[Tensor, "result *n"]:
        """Return ``log sum_a P_a exp(s_a) - log sum_a P_a`` of each side, contrasts taken off."""
        of_answer, sides = self._sides()
        result = scores.new_zeros(len(self), *scores.shape[1:])
        for i, side in enumerate(sides.tolist()):
            mine: Bool[Tensor, "answer"] = of_answer == i
            share = log_probs[mine].log_softmax(0)
            result[side // 2] += (-1 if side % 2 else 1) * (scores[mine] + share).logsumexp(0)
        return result
