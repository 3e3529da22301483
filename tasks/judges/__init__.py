"""Who judges two responses to a prompt: a known gold reward, a reward model, or a language model over HTTP."""

from tasks.judges.core import GoldJudge, Judge, Pair, RewardModelJudge, Verdict

__all__ = ["GoldJudge", "Judge", "Pair", "RewardModelJudge", "Verdict"]
