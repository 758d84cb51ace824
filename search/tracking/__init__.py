"""Trackers are told of a run while it goes on: MLflow, TensorBoard, Weights & Biases. None is on by default."""

TRACKERS = {
    "mlflow": "search.tracking.mlflow:MLflow",
    "tensorboard": "search.tracking.tensorboard:TensorBoard",
    "wandb": "search.tracking.wandb:WeightsAndBiases",
}
