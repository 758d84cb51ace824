"""Algorithms: what to try next."""

ALGORITHMS = {
    "genetic": "search.algorithms.genetic:GeneticAlgorithm",
    "random": "search.algorithms.random:RandomSearch",
}
