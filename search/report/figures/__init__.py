"""Figures of a report: one file per subject, drawn with matplotlib."""
