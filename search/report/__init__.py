"""The report of a run: report.json, the page, the figures, the summary on screen."""
