"""Filter pruning side by side: gradient cut, hard pruning by the same importance, and Torch-Pruning's regularizing pruners.

    python -m benchmarks.filter_pruning --data FOLDER [--models resnet20 vgg_small] [--seeds 3] [--workers 2]

Every row starts from the same checkpoint, meets the same MACs target, has the same total number of epochs after the
checkpoint (those with a sparsifier counted), and the same optimizer, augmentation and distillation. Gradient cut and hard
pruning split channels by the same rule, so that only the way to zero differs. Every cell is a JSON file under ``--results``
and is not computed again; a killed benchmark goes on where it stopped. Prints mean and standard deviation over the seeds,
and writes ``filter_pruning.json`` beside their folder.
"""

from __future__ import annotations

from benchmarks.filter_rows import QUICK, FilterSizes
from benchmarks.pruning_bench import Bench
from benchmarks.pruning_cells import Plan, arguments, run, sized

PLAN = Plan("filter_pruning", "benchmarks.filter_rows:ROWS", (0.25, 0.1))


def main() -> None:
    options = arguments(__doc__, PLAN).parse_args()
    sizes = sized(QUICK if options.quick else FilterSizes(), options)
    benches = [Bench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models]
    run(PLAN, benches, options)


if __name__ == "__main__":
    main()
