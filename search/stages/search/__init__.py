"""The search stage: space, targets, trials, finalists and baselines of one search."""
