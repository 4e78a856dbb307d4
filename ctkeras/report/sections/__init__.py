"""The report's sections, one file each. May import: report, report/html and what report may import."""
