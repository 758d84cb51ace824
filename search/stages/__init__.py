"""Stages: the steps of a pipeline, one file per stage, each with a network in and a network out."""

STAGES = {
    "train": "search.stages.train:Train",
    "sparse_training": "search.stages.sparse_training:SparseTraining",
    "search": "search.stages.search.stage:Search",
    "reconstruct": "search.stages.reconstruct:Reconstruct",
    "retrain": "search.stages.retrain:Retrain",
    "fuse": "search.stages.fuse:Fuse",
    "export": "search.stages.export:Export",
}
