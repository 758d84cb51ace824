"""Reconstruct: solve the layers of a smaller network by least squares, and train its blocks, without labels."""

from __future__ import annotations

from search.run.network import Network
from search.run.stage_run import DryRun, StageRun
from search.stages.base import Stage
from search.stages.solving import solve_layers, tell_costs
from spaces.reconstruction.record import RECONSTRUCTED
from spaces.reconstruction.settings import ReconstructionSettings


class Reconstruct(Stage[ReconstructionSettings]):
    """Least-squares solution of every layer against the network that entered the first compression.

    With ``steps``, its blocks are trained behind it against that network's activations. Statistics of normalizations are those
    of that network from then on, and are not measured again. A network from which no channels were cut stays as it is.
    """

    Settings = ReconstructionSettings
    trains = True
    needs_removal = True
    purpose = "solves for what a search leaves"
    float_option = "images"

    def check(self, network: Network, run: DryRun) -> Network:
        """Tell time and memory, and return ``network`` itself."""
        dense = network if run.reference is None else run.reference
        tell_costs(dense.copy().model, network.copy().model, run, self.settings)
        return network

    def run(self, network: Network, run: StageRun) -> Network:
        """Return the network with solved weights."""
        reference = run.reference
        cuts = () if reference is None else network.cuts_since(reference)
        if reference is None or not cuts:
            run.log.write(f"{run.label}: no channels were cut, so that there is nothing to solve for")
            return network
        small = network.copy().model
        solve_layers(reference.model, small, cuts, run, self.settings, "network")
        return Network(small, (*network.transformations, RECONSTRUCTED))
