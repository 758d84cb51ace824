"""Algorithms: what to try next."""

ALGORITHMS = {
    "genetic": "search.algorithms.genetic:GeneticAlgorithm",
    "optuna": "search.algorithms.optuna_sampler:OptunaSampler",
    "random": "search.algorithms.random:RandomSearch",
}
