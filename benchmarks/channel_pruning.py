"""Channel pruning side by side: our search, Torch-Pruning's pruners, uniform and random masks, and the dense network.

    python -m benchmarks.channel_pruning --data FOLDER [--models resnet20 vgg_small] [--seeds 3] [--workers 2]

Every row starts from the same checkpoint, meets the same MACs target, has the same total number of epochs after the
checkpoint (sparse training counted; the rows that begin with ``10`` have ten more), and the same optimizer, augmentation and
distillation. Every cell is a JSON file under ``--results`` and is not computed again; a killed benchmark goes on where it
stopped. Prints mean and standard deviation over the seeds, and writes ``channel_pruning.json`` beside their folder.
"""

from __future__ import annotations

from benchmarks.pruning_bench import Bench
from benchmarks.pruning_cells import Plan, arguments, run, sized
from benchmarks.pruning_rows import LONG_ROWS, QUICK, SearchSizes

PLAN = Plan("channel_pruning", "benchmarks.pruning_rows:ROWS", (0.4, 0.2), only=dict.fromkeys(LONG_ROWS, (0.2,)))


def main() -> None:
    options = arguments(__doc__, PLAN).parse_args()
    sizes = sized(QUICK if options.quick else SearchSizes(), options)
    run(
        PLAN,
        [Bench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models],
        options,
    )


if __name__ == "__main__":
    main()
