"""Measure the worth and the cost of a network: scores, bytes, latency; with tasks and the training loop."""

EVALUATORS = {
    "cost": "evaluators.cost:Cost",
    "omega": "evaluators.sensitivity.loss_increase:LossIncrease",
    "accuracy": "evaluators.accuracy:Accuracy",
    "divergence": "evaluators.divergence:Divergence",
    "latency": "evaluators.latency.latency:Latency",
}

DATASETS = {
    "digits": "evaluators.tasks.small_images:Digits",
    "fashion_mnist": "evaluators.tasks.small_images:FashionMNIST",
    "cifar10": "evaluators.tasks.small_images:CIFAR10",
    "cifar100": "evaluators.tasks.small_images:CIFAR100",
    "image_folder": "evaluators.tasks.image_folder:ImageFolder",
    "tar_shards": "evaluators.tasks.tar_shards:TarShards",
    "text_folder": "evaluators.tasks.text_folder:TextFolder",
    "letter_order": "evaluators.tasks.letter_order:LetterOrder",
    "shape_masks": "evaluators.tasks.shapes.shape_masks:ShapeMasks",
    "shape_sizes": "evaluators.tasks.shapes.shape_sizes:ShapeSizes",
    "shape_labels": "evaluators.tasks.shapes.shape_labels:ShapeLabels",
    "shape_pairs": "evaluators.tasks.shapes.shape_pairs:ShapePairs",
    "shape_noise": "evaluators.tasks.shapes.shape_noise:ShapeNoise",
}
