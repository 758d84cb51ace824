"""Coupled channels of a network: found by one labelled forward pass, masked, cut, checked and priced."""
