"""Tasks: data sets, augmentation, model factories, loaders, and the measurement of a network on a split."""
