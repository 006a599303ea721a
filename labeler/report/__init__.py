"""The HTML report: summarise, then fill a template."""
