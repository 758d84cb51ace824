"""Figures of a report: a file and a line here per figure, shown on the page in this order."""

FIGURES = {
    "front": "search.report.figures.front:Front",
    "progress": "search.report.figures.progress:Progress",
    "resolved": "search.report.figures.resolved:Resolved",
    "result": "search.report.figures.result:Result",
    "sensitivity": "search.report.figures.sensitivity:Sensitivity",
    "blocks": "search.report.figures.blocks:Blocks",
    "layers": "search.report.figures.layers:Layers",
    "depth": "search.report.figures.depth:Depth",
    "retention": "search.report.figures.retention:Retention",
    "participation": "search.report.figures.participation:Participation",
    "bits": "search.report.figures.bits:Bits",
    "training": "search.report.figures.training:Training",
}
