"""Algorithms: each proposes the next candidates from the trials measured so far."""

ALGORITHMS = {
    "evolution": "search.algorithms.evolution:Evolution",
    "genetic": "search.algorithms.genetic:GeneticAlgorithm",
    "integer_program": "search.algorithms.integer_program:IntegerProgram",
    "progressive": "search.algorithms.progressive:Progressive",
    "optuna": "search.algorithms.optuna_sampler:OptunaSampler",
    "random": "search.algorithms.random:RandomSearch",
}
