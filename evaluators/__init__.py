"""What a model is worth, and what it costs."""

EVALUATORS = {
    "cost": "evaluators.cost:Cost",
    "omega": "evaluators.omega:Omega",
    "accuracy": "evaluators.accuracy:Accuracy",
    "latency": "evaluators.latency:Latency",
}

DATASETS = {
    "digits": "evaluators.small_images:Digits",
    "fashion_mnist": "evaluators.small_images:FashionMNIST",
    "cifar10": "evaluators.small_images:CIFAR10",
    "cifar100": "evaluators.small_images:CIFAR100",
    "image_folder": "evaluators.image_folder:ImageFolder",
}
